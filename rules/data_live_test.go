package rules

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/datapath"
	"pptpalg/alg/gre"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// These tests send GRE through the data path's rules of a gateway whose firewall lets
// nothing through but what is ESTABLISHED, and whose administrator routes by marks:
//
//	client 10.0.1.2 ─── 10.0.1.1 gateway 203.0.113.1 ─── 203.0.113.2 server
//
// The client's Call ID is 7, in public 77; the server's is 5.

const dataTable = `*nat
-A POSTROUTING -o toServer -j MASQUERADE
COMMIT
*mangle
-A PREROUTING -j CONNMARK --restore-mark
-A PREROUTING -p gre -m mark ! --mark 0 -m comment --comment "marked"
COMMIT
*filter
:FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
COMMIT
`

var (
	theClient, theServer = netip.MustParseAddr("10.0.1.2"), netip.MustParseAddr("203.0.113.2")
	thePublic            = netip.MustParseAddr("203.0.113.1")

	inward  = conntrack.Flow{Src: theServer, Dst: thePublic, Key: 77, NewSrc: theServer, NewDst: theClient, NewKey: 7}
	outward = conntrack.Flow{Src: theClient, Dst: theServer, Key: 5, NewSrc: thePublic, NewDst: theServer, NewKey: 5}
)

// dataGateway is the network and the two ends of a call.
type dataGateway struct {
	namespace
	client, server end
	firewall       *Firewall
}

// end is a host with a socket for GRE.
type end struct {
	namespace
	fd int
}

func newDataGateway(t *testing.T, command string, d Data) dataGateway {
	t.Helper()
	g := dataGateway{namespace: newNamespace(t)}
	g.client.namespace, g.server.namespace = newNamespace(t), newNamespace(t)
	wire(t, g.client.namespace, "toGateway", "10.0.1.2/24", g.namespace, "toClient", "10.0.1.1/24")
	wire(t, g.server.namespace, "toGateway", "203.0.113.2/24", g.namespace, "toServer", "203.0.113.1/24")
	g.client.ip(t, "route add default via 10.0.1.1")
	g.run(t, "", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	g.restore(t, command, dataTable)
	g.firewall = g.namespace.firewall(command)
	mustLoad(t, g.firewall, Config{Queue: 1723, Ports: []uint16{1723}, Data: d})
	g.client.open(t)
	g.server.open(t)
	return g
}

// open opens a socket that receives GRE, and gives up after a while.
func (e *end) open(t *testing.T) {
	t.Helper()
	e.do(t, func() (err error) {
		e.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_GRE)
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	})
	t.Cleanup(func() { unix.Close(e.fd) })
}

// send sends GRE with a payload that begins with a number.
func (e *end) send(t *testing.T, to netip.Addr, id pptp.CallID, number uint16, size int) {
	t.Helper()
	payload := make([]byte, size)
	binary.BigEndian.PutUint16(payload, number)
	b := gre.Append(nil, gre.Fields{CallID: id, HasSeq: true, Payload: payload})
	if err := unix.Sendto(e.fd, b, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// arrival is a GRE packet as it came.
type arrival struct {
	Src, Dst netip.Addr
	ID       pptp.CallID
	Number   uint16
	Size     int // of the payload
}

func (e *end) receive(t *testing.T) arrival {
	t.Helper()
	b := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(e.fd, b, 0)
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	h, err := gre.Parse(b[int(b[0]&0x0f)*4 : n])
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	return arrival{
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
		ID: h.CallID(), Number: binary.BigEndian.Uint16(h.Payload()), Size: len(h.Payload()),
	}
}

func (e *end) expect(t *testing.T, want arrival) {
	t.Helper()
	if diff := cmp.Diff(want, e.receive(t), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("arrived (-want +got):\n%s", diff)
	}
}

// daemon is the data path without the rest: a queue and a table.
type daemon struct {
	table *datapath.Table
	mark  uint32 // of what is a call's
	mu    sync.Mutex
	sizes []int // of the packets queued, guarded by mu
}

// start runs the data path until the returned function is called, or the test ends.
func (g dataGateway) start(t *testing.T, d Data, flows ...conntrack.Flow) (*daemon, func()) {
	t.Helper()
	dm := &daemon{table: datapath.NewTable(), mark: d.Mark}
	for _, f := range flows {
		if err := dm.table.Install(f); err != nil {
			t.Fatal(err)
		}
	}
	var q *nfqueue.Queue
	g.do(t, func() (err error) {
		q, err = nfqueue.Open(nfqueue.Config{Queue: d.Queue, Queues: d.Queues}, dm.packet)
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- q.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-result; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return dm, stop
}

func (d *daemon) packet(p *nfqueue.Packet) nfqueue.Verdict {
	d.mu.Lock()
	d.sizes = append(d.sizes, len(p.Payload))
	d.mu.Unlock()
	if p.Truncated {
		return nfqueue.Accept
	}
	switch d.table.Rewrite(p.Payload).Verdict {
	case datapath.Edited:
		p.Mark = d.mark
		return nfqueue.AcceptModified
	case datapath.Keep:
		p.Mark = d.mark
	}
	return nfqueue.Accept
}

var liveData = Data{Queue: 1730, Queues: 2, Mark: DefaultMark, Label: DefaultLabel}

// A call's GRE passes a firewall that would drop it, in both directions, and no other
// does. What the administrator's rules see of it bears no mark.
func TestKernelDataForwardDrop(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		g := newDataGateway(t, command, liveData)
		dm, _ := g.start(t, liveData, inward, outward)
		for i := range uint16(3) {
			g.server.send(t, thePublic, 78, 100+i, 50) // no call's
			g.client.send(t, theServer, 6, 100+i, 50)
			g.server.send(t, thePublic, 77, i, 1000)
			g.client.expect(t, arrival{theServer, theClient, 7, i, 1000})
			g.client.send(t, theServer, 5, i, 1000)
			g.server.expect(t, arrival{thePublic, theServer, 5, i, 1000})
		}
		if got := dm.table.Count(datapath.NoFlow); got != 6 {
			t.Errorf("%d packets of no call were queued, want 6", got)
		}
		if n := g.counters(t, command, "mangle"); n["marked"] != 0 {
			t.Errorf("the administrator's rules saw %d marked packets", n["marked"])
		}
	})
}

// Without rules that accept them, the packets that were rewritten are NEW, and pass only
// once conntrack has been told that they are ESTABLISHED.
func TestKernelDataWithoutMark(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		d := Data{Queue: 1730, Queues: 1}
		g := newDataGateway(t, command, d)
		dm, _ := g.start(t, d, inward)
		g.server.send(t, thePublic, 77, 1, 50)
		eventually(t, func() bool { return dm.table.Count(datapath.Rewritten) == 1 }, func() string { return "nothing was rewritten" })
		g.run(t, "", "conntrack", "-I", "-p", "gre", "-s", "203.0.113.2", "-d", "10.0.1.2", "--srckey", "0", "--dstkey", "7",
			"--reply-src", "10.0.1.2", "--reply-dst", "203.0.113.2", "--reply-key-src", "7", "--reply-key-dst", "0", "-t", "600", "-u", "FIXED_TIMEOUT,SEEN_REPLY,ASSURED")
		g.server.send(t, thePublic, 77, 2, 50)
		g.client.expect(t, arrival{theServer, theClient, 7, 2, 50})
	})
}

// A packet in fragments is queued whole, and arrives whole: raw comes after conntrack has
// joined them.
func TestKernelDataFragments(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		g := newDataGateway(t, command, liveData)
		dm, _ := g.start(t, liveData, inward)
		g.server.send(t, thePublic, 77, 1, 5000)
		g.client.expect(t, arrival{theServer, theClient, 7, 1, 5000})
		dm.mu.Lock()
		defer dm.mu.Unlock()
		if diff := cmp.Diff([]int{5000 + 32}, dm.sizes); diff != "" {
			t.Errorf("sizes of the packets queued (-want +got):\n%s", diff)
		}
	})
}

// Other tunnels are not queued: GRE of version 0 arrives though nobody reads the queue.
func TestKernelDataOtherGRE(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		g := newDataGateway(t, command, liveData)
		g.restore(t, command, "*raw\n-A PREROUTING -p gre -m comment --comment \"passed\"\nCOMMIT\n")
		if err := unix.Sendto(g.server.fd, make([]byte, 40), 0, &unix.SockaddrInet4{Addr: thePublic.As4()}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return g.counters(t, command, "raw")["passed"] == 1 }, func() string { return "it was queued" })
	})
}

// unreachable reports whether the server is told that the gateway does not know GRE.
func (g dataGateway) unreachable(t *testing.T) bool {
	t.Helper()
	out := g.server.run(t, "", "cat", "/proc/net/snmp")
	found := regexp.MustCompile(`(?m)^IcmpMsg: InType3\n?.*\nIcmpMsg: ([0-9]+)`).FindStringSubmatch(out)
	return found != nil && found[1] != "0"
}

// While no daemon reads the queue the packets are dropped, unless they shall pass: then
// the gateway, which they are for, answers.
func TestKernelDataWithoutDaemon(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		for _, bypass := range []bool{false, true} {
			t.Run(fmt.Sprintf("bypass %v", bypass), func(t *testing.T) {
				d := liveData
				d.Bypass = bypass
				g := newDataGateway(t, command, d)
				g.server.send(t, thePublic, 77, 1, 50)
				if bypass {
					eventually(t, func() bool { return g.unreachable(t) }, func() string { return "no answer" })
				}
				_, stop := g.start(t, d, inward)
				g.server.send(t, thePublic, 77, 2, 50)
				g.client.expect(t, arrival{theServer, theClient, 7, 2, 50})
				stop()
				if !bypass && g.unreachable(t) {
					t.Error("the gateway answered")
				}
			})
		}
	})
}

func TestKernelDataLoadUnload(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		ns.run(t, richTable+"*raw\n-A PREROUTING -p gre -j CT --zone 0\nCOMMIT\n", command+"-restore", "--counters")
		before := ns.save(t, command)
		small := Config{Queue: 1, Ports: []uint16{1}, Data: Data{Queue: 2, Queues: 1}}
		for _, cfg := range []Config{dataPath, dataPath, small, dataPath} {
			mustLoad(t, f, cfg)
			if got, err := f.DataLoaded(t.Context()); err != nil || !got {
				t.Fatalf("DataLoaded = %v, %v", got, err)
			}
			others := withoutOurs(ns.save(t, command))
			if diff := cmp.Diff(before, others); diff != "" {
				t.Errorf("loaded: rules of others (-want +got):\n%s", diff)
			}
		}
		list := ns.run(t, "", command, "-t", "filter", "-S", "FORWARD")
		if lines := strings.Split(list, "\n"); lines[1] != "-A FORWARD -p gre -j PPTPALG-GRE" {
			t.Errorf("the jump is not first:\n%s", list)
		}
		mustLoad(t, f, onePort)
		if got, err := f.DataLoaded(t.Context()); err != nil || got {
			t.Errorf("DataLoaded = %v, %v without data", got, err)
		}
		if saved := ns.save(t, command); strings.Contains(saved, DataChain) {
			t.Errorf("left of the data path:\n%s", saved)
		}
		mustLoad(t, f, dataPath)
		mustUnload(t, f)
		if diff := cmp.Diff(before, ns.save(t, command)); diff != "" {
			t.Errorf("unloaded (-want +got):\n%s", diff)
		}
	})
}

// withoutOurs leaves the rules of others.
func withoutOurs(saved string) string {
	var others []string
	for line := range strings.Lines(saved) {
		if !regexp.MustCompile(`^:PPTPALG(-GRE)? |-A PPTPALG(-GRE)? |-j PPTPALG(-GRE)?\n`).MatchString(line) {
			others = append(others, line)
		}
	}
	return strings.Join(others, "")
}

// When iptables or the kernel lacks a match that there is no doing without, nothing of
// the data path stays.
func TestKernelDataRefused(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		t.Setenv("XTABLES_LIBDIR", extensionsWithout(t, "libxt_u32.so"))
		if _, err := ns.firewall(command).Load(t.Context(), dataPath); err == nil {
			t.Error("loaded")
		} else {
			t.Log(err)
		}
		os.Unsetenv("XTABLES_LIBDIR")
		if saved := ns.save(t, command); strings.Contains(saved, Chain) {
			t.Errorf("left behind:\n%s", saved)
		}
	})
}

// Without labels there are no rules that accept a call's packets, and the rest is as
// asked, whatever was loaded before.
func TestKernelDataFallsBack(t *testing.T) {
	unmarked := dataPath
	unmarked.Data.Mark = 0
	eachBackend(t, func(t *testing.T, command string) {
		for _, before := range []Config{{}, onePort, unmarked} {
			ns := newNamespace(t)
			f := ns.firewall(command)
			if len(before.Ports) > 0 {
				mustLoad(t, f, before)
			}
			asked := dataPath
			asked.Bypass = Bypass{Label: DefaultBypassLabel, Labelled: true}
			t.Setenv("XTABLES_LIBDIR", extensionsWithout(t, "libxt_connlabel.so"))
			got, err := f.Load(t.Context(), asked)
			os.Unsetenv("XTABLES_LIBDIR")
			if err != nil {
				t.Fatal(err)
			}
			if !cmp.Equal(unmarked, got.Config) || got.Refused == nil {
				t.Errorf("outcome %+v, want %+v", got, unmarked)
			}
			fresh := newNamespace(t)
			mustLoad(t, fresh.firewall(command), unmarked)
			if diff := cmp.Diff(fresh.save(t, command), ns.save(t, command)); diff != "" {
				t.Errorf("after %+v: tables (-want +got):\n%s", before, diff)
			}
		}
	})
}

// What one process has loaded, or was killed while it loaded, another one removes:
// nothing but the tables is known of it.
func TestKernelDataAfterCrash(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		for name, left := range map[string]string{
			"all":               dataPath.Text(),
			"the first step":    "*mangle\n-N PPTPALG-GRE\nCOMMIT\n",
			"data without rest": dataPath.Data.loadText(nil),
		} {
			for after, do := range map[string]func(*Firewall){
				"unload": func(f *Firewall) { mustUnload(t, f) },
				"load without data": func(f *Firewall) {
					mustLoad(t, f, onePort)
					mustUnload(t, f)
				},
			} {
				ns := newNamespace(t)
				ns.run(t, richTable, command+"-restore", "--counters")
				before := ns.save(t, command)
				ns.restore(t, command, left)
				do(ns.firewall(command))
				if diff := cmp.Diff(before, withoutTable(ns.save(t, command), "raw")); diff != "" {
					t.Errorf("%s, %s (-want +got):\n%s", name, after, diff)
				}
			}
		}
	})
}

// withoutTable leaves out a table that has nothing but its policies.
func withoutTable(saved, table string) string {
	return regexp.MustCompile(`\*`+table+`\n(:.*\n)*COMMIT\n`).ReplaceAllString(saved, "")
}
