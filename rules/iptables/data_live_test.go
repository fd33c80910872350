package iptables

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

// These tests send GRE through the data path's rules of a gateway whose firewall lets
// nothing through but what is ESTABLISHED, sends all else that comes from outside to a
// host inside, and whose administrator routes by marks:
//
//	client 10.0.1.2 ─── 10.0.1.1 gateway 203.0.113.1 ─── 203.0.113.2 server
//
// The client's Call ID is 7, in public 77; the server's is 5.

const dataTable = `*nat
-A PREROUTING -i toServer -j DNAT --to-destination 10.0.1.99
-A POSTROUTING -o toServer -j MASQUERADE
COMMIT
*mangle
-A PREROUTING -j CONNMARK --restore-mark
-A PREROUTING -p gre -m mark ! --mark 0 -m comment --comment "marked"
-A PREROUTING -p gre -m conntrack --ctstate UNTRACKED -m comment --comment "untracked"
-A POSTROUTING -p gre -m mark ! --mark 0 -m comment --comment "marked out"
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
:OUTPUT DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
COMMIT
*raw
-A PREROUTING -p gre -m comment --comment "raw"
COMMIT
`

var (
	theClient, theServer = netip.MustParseAddr("10.0.1.2"), netip.MustParseAddr("203.0.113.2")
	thePublic            = netip.MustParseAddr("203.0.113.1")

	inward  = calls.Flow{Src: theServer, Dst: thePublic, Key: 77, NewSrc: theServer, NewDst: theClient, NewKey: 7}
	outward = calls.Flow{Src: theClient, Dst: theServer, Key: 5, NewSrc: thePublic, NewDst: theServer, NewKey: 5}
)

// toItself has what comes from outside and belongs to nothing be for the gateway.
const toItself = "*nat\n-F PREROUTING\nCOMMIT\n*filter\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\nCOMMIT\n"

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

func newDataGateway(t *testing.T, command string, d rules.Data) dataGateway {
	t.Helper()
	g := dataGateway{namespace: newNamespace(t)}
	g.client.namespace, g.server.namespace = newNamespace(t), newNamespace(t)
	wire(t, g.client.namespace, "toGateway", "10.0.1.2/24", g.namespace, "toClient", "10.0.1.1/24")
	wire(t, g.server.namespace, "toGateway", "203.0.113.2/24", g.namespace, "toServer", "203.0.113.1/24")
	g.client.IP(t, "route add default via 10.0.1.1")
	g.Run(t, "", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	g.restore(t, command, dataTable)
	g.firewall = g.namespace.firewall(command)
	mustLoad(t, g.firewall, rules.Config{Queue: 1723, Ports: []uint16{1723}, Data: d})
	g.client.open(t)
	g.server.open(t)
	return g
}

// open opens a socket that receives GRE, and gives up after a while.
func (e *end) open(t *testing.T) {
	t.Helper()
	e.Do(t, func() (err error) {
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
	b := packet.AppendGRE(nil, packet.GREFields{CallID: id, HasSeq: true, Payload: payload})
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
	for err == unix.EINTR {
		n, _, err = unix.Recvfrom(e.fd, b, 0)
	}
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	h, err := packet.ParseGRE(b[int(b[0]&0x0f)*4 : n])
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	payload := b[n-h.PayloadLength() : n]
	return arrival{
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
		ID: h.CallID(), Number: binary.BigEndian.Uint16(payload), Size: len(payload),
	}
}

// drain forgets what has come.
func (e *end) drain(t *testing.T) {
	t.Helper()
	for b := make([]byte, 1<<16); ; {
		if _, _, err := unix.Recvfrom(e.fd, b, unix.MSG_DONTWAIT); err != nil {
			return
		}
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
	rules.Data
	table *gre.Table
	again atomic.Int64 // packets that came marked
	mu    sync.Mutex
	sizes []int // of the packets queued as they came, guarded by mu
}

// start runs the data path until the returned function is called, or the test ends.
func (g dataGateway) start(t *testing.T, d rules.Data, flows ...calls.Flow) (*daemon, func()) {
	t.Helper()
	dm := &daemon{Data: d, table: gre.NewTable()}
	for _, f := range flows {
		if err := dm.table.Install(f, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	var q *nfqueue.Queue
	g.Do(t, func() (err error) {
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

// packet does what the daemon does with a packet.
func (d *daemon) packet(p *nfqueue.Packet) nfqueue.Verdict {
	call, seen := d.Marks()
	if p.Mark&(call|seen) != 0 {
		d.again.Add(1)
		return nfqueue.Accept
	}
	var v gre.Verdict
	switch p.Hook {
	case nfqueue.Input, nfqueue.Postrouting:
		v = d.table.Leave(p.Payload)
		p.Mark |= seen
	default:
		d.saw(len(p.Payload))
		v = d.table.Enter(p.Payload).Verdict
		p.Mark |= map[bool]uint32{true: seen, false: call}[v == gre.Pass]
	}
	if v == gre.Edited {
		return nfqueue.RepeatModified
	}
	return nfqueue.Repeat
}

func (d *daemon) saw(size int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sizes = append(d.sizes, size)
}

var liveData = rules.Data{Queue: 1730, Queues: 2, Mark: rules.DefaultMark}

// entries returns what conntrack has of GRE.
func (g dataGateway) entries(t *testing.T) string {
	t.Helper()
	return g.Run(t, "", "conntrack", "-L", "-p", "gre")
}

// carries sends packets both ways.
func (g dataGateway) carries(t *testing.T) {
	t.Helper()
	for i := range uint16(3) {
		g.server.send(t, thePublic, inward.Key, i, 1000)
		g.client.expect(t, arrival{theServer, theClient, inward.NewKey, i, 1000})
		g.client.send(t, theServer, outward.Key, i, 1000)
		g.server.expect(t, arrival{thePublic, theServer, outward.NewKey, i, 1000})
	}
}

// A call's GRE passes a firewall that would drop it, in both directions, and no other
// does. It meets neither conntrack nor the rules of table nat, and what the administrator's
// rules see of it bears no mark. Other GRE meets them all, once.
func TestKernelDataForwardDrop(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		g := newDataGateway(t, command, liveData)
		dm, _ := g.start(t, liveData, inward, outward)
		g.carries(t)
		if got := g.entries(t); got != "" {
			t.Errorf("conntrack has entries:\n%s", got)
		}
		for i := range uint16(3) {
			g.server.send(t, thePublic, 78, 100+i, 50) // no call's
			g.client.send(t, theServer, 6, 100+i, 50)
		}
		g.carries(t)
		if got := dm.table.Count(gre.NoFlow); got != 6 {
			t.Errorf("%d packets of no call were queued, want 6", got)
		}
		mangle, raw := g.counters(t, command, "mangle"), g.counters(t, command, "raw")
		if mangle["marked"] != 0 || mangle["marked out"] != 0 || mangle["untracked"] != 12 || raw["raw"] != 6 {
			t.Errorf("the administrator's rules saw %v and %v", mangle, raw)
		}
		if n := dm.again.Load(); n != 0 {
			t.Errorf("%d packets came twice", n)
		}
	})
}

// What conntrack knows of other GRE does not matter: a stranger's under the server's ID,
// or of this very call, from before its flows were there; nor that it takes no more, as
// when its table is full.
func TestKernelDataBesideConntrack(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		g := newDataGateway(t, command, liveData)
		g.restore(t, command, "*filter\n-I FORWARD -p gre -j ACCEPT\nCOMMIT\n")
		zero := func(f calls.Flow) calls.Flow {
			f.Key, f.NewKey = 0, 0
			return f
		}
		dm, _ := g.start(t, liveData)
		g.client.send(t, theServer, 5, 100, 50)
		g.server.expect(t, arrival{thePublic, theServer, 5, 100, 50})
		g.server.send(t, thePublic, 77, 100, 50)
		g.client.send(t, theServer, 0, 101, 50)
		g.server.expect(t, arrival{thePublic, theServer, 0, 101, 50})
		g.server.send(t, thePublic, 0, 101, 50)
		// Packets that wait until there are flows would be the call's.
		trial.Eventually(t, func() bool { return dm.table.Count(gre.NoFlow) == 4 }, func() string { return "not all strangers' packets came" })
		if g.entries(t) == "" {
			t.Fatal("conntrack knows nothing")
		}
		for _, f := range []calls.Flow{inward, outward, zero(inward), zero(outward)} {
			if err := dm.table.Install(f, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		g.client.drain(t)
		g.restore(t, command, "*mangle\n-A PREROUTING -p gre -m conntrack --ctstate NEW -j DROP\nCOMMIT\n")
		g.carries(t)
		g.server.send(t, thePublic, 0, 9, 50)
		g.client.expect(t, arrival{theServer, theClient, 0, 9, 50})
		g.client.send(t, theServer, 0, 9, 50)
		g.server.expect(t, arrival{thePublic, theServer, 0, 9, 50})
	})
}

// Rules of others in raw, which have all GRE in a zone of its own, or not tracked, come
// behind ours.
func TestKernelDataBesideZones(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		for _, target := range []string{"CT --zone 5", "CT --notrack", "ACCEPT"} {
			g := newDataGateway(t, command, liveData)
			g.restore(t, command, "*raw\n-A PREROUTING -p gre -j "+target+"\nCOMMIT\n")
			mustLoad(t, g.firewall, rules.Config{Queue: 1723, Ports: []uint16{1723}, Data: liveData})
			g.start(t, liveData, inward, outward)
			g.carries(t)
			if got := g.entries(t); got != "" {
				t.Errorf("%s: conntrack has entries:\n%s", target, got)
			}
		}
	})
}

// The gateway itself is an end of the call: its firewall lets it through, and both visits
// are made.
func TestKernelDataOfTheGateway(t *testing.T) {
	const alias = "203.0.113.77" // what the server knows it by
	a := netip.MustParseAddr(alias)
	eachBackend(t, func(t *testing.T, command string) {
		g := newDataGateway(t, command, liveData)
		g.IP(t, "address add "+alias+"/24 dev toServer")
		own := &end{namespace: g.namespace}
		own.open(t)
		g.start(t, liveData,
			calls.Flow{Src: theServer, Dst: a, Key: 77, NewSrc: theServer, NewDst: thePublic, NewKey: 7},
			calls.Flow{Src: thePublic, Dst: theServer, Key: 5, NewSrc: a, NewDst: theServer, NewKey: 6},
			// its own forwarded port: to itself the server is at its public address
			calls.Flow{Src: thePublic, Dst: thePublic, Key: 50, NewSrc: thePublic, NewDst: theClient, NewKey: 51},
			calls.Flow{Src: theClient, Dst: thePublic, Key: 52, NewSrc: thePublic, NewDst: thePublic, NewKey: 53})
		for i := range uint16(3) {
			own.send(t, theServer, 5, i, 100)
			g.server.expect(t, arrival{a, theServer, 6, i, 100})
			g.server.send(t, a, 77, i, 100)
			own.expect(t, arrival{theServer, thePublic, 7, i, 100})
			own.send(t, thePublic, 50, i, 100)
			g.client.expect(t, arrival{thePublic, theClient, 51, i, 100})
			g.client.send(t, thePublic, 52, i, 100)
			own.expect(t, arrival{thePublic, thePublic, 53, i, 100})
		}
	})
}

// What the rules of an older version have queued comes back marked, as nothing does from
// ours, and is accepted: a packet must not go round for good.
func TestKernelDataNoLoop(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		g := newDataGateway(t, command, liveData)
		mustUnload(t, g.firewall)
		g.restore(t, command, toItself+`*raw
-A PREROUTING -p gre -j NFQUEUE --queue-num 1730
COMMIT
*filter
-I FORWARD -p gre -j ACCEPT
COMMIT
`)
		dm, _ := g.start(t, liveData, inward)
		g.server.send(t, thePublic, 77, 1, 50)
		g.client.expect(t, arrival{theServer, theClient, 7, 1, 50})
		if n := dm.again.Load(); n != 1 {
			t.Errorf("%d packets came twice, want 1", n)
		}
	})
}

// Without a mark no rules accept the packets, and all else is as with one.
func TestKernelDataWithoutMark(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		d := rules.Data{Queue: 1730, Queues: 1}
		g := newDataGateway(t, command, d)
		dm, _ := g.start(t, d, inward, outward)
		g.server.send(t, thePublic, 77, 100, 50)
		trial.Eventually(t, func() bool { return dm.table.Count(gre.Rewritten) == 1 }, func() string { return "nothing was rewritten" })
		g.restore(t, command, "*filter\n-I FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT\nCOMMIT\n")
		g.carries(t)
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
		trial.Eventually(t, func() bool { return g.counters(t, command, "raw")["passed"] == 1 }, func() string { return "it was queued" })
	})
}

// unreachable reports whether the server is told that the gateway does not know GRE.
func (g dataGateway) unreachable(t *testing.T) bool {
	t.Helper()
	out := g.server.Run(t, "", "cat", "/proc/net/snmp")
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
				g.restore(t, command, toItself)
				g.server.send(t, thePublic, 77, 1, 50)
				if bypass {
					trial.Eventually(t, func() bool { return g.unreachable(t) }, func() string { return "no answer" })
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

// jumpToData is a rule of table raw that has the data path's chain look at a packet.
var jumpToData = regexp.MustCompile("(?m)^-A PREROUTING .*-j " + DataChain + "$")

// queuesGRE reports whether packets meet a chain of the data path that has rules.
func (ns namespace) queuesGRE(t *testing.T, command string) bool {
	list := ns.Run(t, "", command, "-t", "raw", "-S")
	return jumpToData.MatchString(list) && strings.Contains(list, "\n-A "+DataChain+" ")
}

func TestKernelDataLoadUnload(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		ns.Run(t, richTable+"*raw\n-A PREROUTING -p gre -j CT --zone 0\nCOMMIT\n", command+"-restore", "--counters")
		before := ns.save(t, command)
		small := rules.Config{Queue: 1, Ports: []uint16{1}, Data: rules.Data{Queue: 2, Queues: 1}}
		for _, cfg := range []rules.Config{dataPath, dataPath, small, dataPath} {
			mustLoad(t, f, cfg)
			if !ns.queuesGRE(t, command) {
				t.Fatal("no GRE is queued")
			}
			others := withoutOurs(ns.save(t, command))
			if diff := cmp.Diff(before, others); diff != "" {
				t.Errorf("loaded: rules of others (-want +got):\n%s", diff)
			}
		}
		list := ns.Run(t, "", command, "-t", "filter", "-S", "FORWARD")
		if lines := strings.Split(list, "\n"); !strings.HasSuffix(lines[1], " -j PPTPALG-GRE") || !strings.HasSuffix(lines[2], " -j PPTPALG-GRE") {
			t.Errorf("the jumps are not first:\n%s", list)
		}
		mustLoad(t, f, onePort)
		if ns.queuesGRE(t, command) {
			t.Error("GRE is queued without data")
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

// What others put before the jumps of the data path counts if it may keep a packet of a call's
// from them. Then the rules are not present, and Load puts them first again.
func TestKernelDataFirst(t *testing.T) {
	tests := []struct {
		rule    string
		present bool
	}{
		{"filter -I FORWARD -p gre -j DROP", false},
		{"filter -I INPUT -i eth7 -j DROP", false},
		{"filter -I OUTPUT -p icmp -j REJECT", false},
		{"filter -I FORWARD ! -p tcp -j DROP", false},
		{"filter -I FORWARD -j own", false},
		{"filter -I FORWARD -g own", false},
		{"filter -I FORWARD 2 -j DROP", false},
		{"filter -I FORWARD -j ACCEPT", true},
		{"filter -I FORWARD -p tcp -j own", true},
		{"filter -I FORWARD -p gre -j LOG", true},
		{"filter -I FORWARD -p gre", true},
		{"filter -A FORWARD -p gre -j DROP", true},
		{"raw -I PREROUTING -p gre -j DROP", false},
		{"raw -I PREROUTING -p gre -j ACCEPT", false},
		{"raw -I PREROUTING -j CT --zone 7", false},
		{"raw -I PREROUTING -p tcp -j CT --zone 7", true},
		{"raw -A PREROUTING -j CT --zone 7", true},
		{"mangle -I POSTROUTING -j ACCEPT", false},
		{"mangle -I POSTROUTING -j MARK --set-mark 1", true},
		{"mangle -I INPUT -j DROP", false},
		{"mangle -I PREROUTING -j CONNMARK --restore-mark", true},
	}
	eachBackend(t, func(t *testing.T, command string) {
		ns := newNamespace(t)
		f := ns.firewall(command)
		ns.Run(t, "", command, "-N", "own")
		for _, tt := range tests {
			mustLoad(t, f, dataPath)
			checkPresent(t, f, dataPath, true)
			words := append([]string{"-t"}, strings.Fields(tt.rule)...)
			ns.Run(t, "", command, words...)
			if got, err := f.Present(t.Context(), dataPath); err != nil || got != tt.present {
				t.Errorf("%s: present %v, %v, want %v", tt.rule, got, err, tt.present)
			}
			mustLoad(t, f, dataPath)
			checkPresent(t, f, dataPath, true)
			if words[2] = "-D"; strings.Contains(tt.rule, "FORWARD 2 ") {
				words = slices.Delete(words, 4, 5)
			}
			ns.Run(t, "", command, words...)
		}
	})
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

// The rules of an older version, which labelled calls' packets, go when these are loaded.
func TestKernelDataAfterLabels(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		ns, fresh := newNamespace(t), newNamespace(t)
		var older []string
		for table, list := range readLists(t, "data-labels-") {
			for line := range strings.Lines(list) {
				if r := strings.TrimSpace(line); strings.Contains(r, DataChain) {
					older = append(older, "*"+table+"\n"+r+"\nCOMMIT\n")
				}
			}
		}
		for _, line := range older {
			ns.restore(t, command, line)
		}
		mustLoad(t, ns.firewall(command), dataPath)
		mustLoad(t, fresh.firewall(command), dataPath)
		if diff := cmp.Diff(tablesOf(fresh.save(t, command)), tablesOf(ns.save(t, command))); diff != "" {
			t.Errorf("tables (-want +got):\n%s", diff)
		}
	})
}

// tablesOf splits what iptables-save says into tables, whose order is that in which they
// were first used.
func tablesOf(saved string) []string {
	tables := strings.SplitAfter(saved, "COMMIT\n")
	slices.Sort(tables)
	return tables
}

// What one process has loaded, or was killed while it loaded, another one removes:
// nothing but the tables is known of it.
func TestKernelDataAfterCrash(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		for name, left := range map[string]string{
			"all":               Text(dataPath),
			"the first step":    "*mangle\n-N PPTPALG-GRE\nCOMMIT\n",
			"data without rest": loadText(dataPath.Data, nil),
		} {
			for after, do := range map[string]func(*Firewall){
				"unload": func(f *Firewall) { mustUnload(t, f) },
				"load without data": func(f *Firewall) {
					mustLoad(t, f, onePort)
					mustUnload(t, f)
				},
			} {
				ns := newNamespace(t)
				ns.Run(t, richTable, command+"-restore", "--counters")
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
