package iptables

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/florianl/go-nfqueue/v2"

	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

// These tests send real TCP connections through the full rules of a gateway:
//
//	client 10.0.1.2 ─── 10.0.1.1 gateway 10.0.2.1 ─── 10.0.2.2 server
//	                 opened to 10.0.1.1:1723, DNAT to 10.0.2.2:2000, masqueraded
//
// The administrator's rules around the jump count what passes before and after.

const liveTable = `*nat
-A PREROUTING -d 10.0.1.1 -p tcp --dport 1723 -j DNAT --to-destination 10.0.2.2:2000
-A POSTROUTING -o toServer -j MASQUERADE
COMMIT
*mangle
-A PREROUTING -p tcp -m comment --comment "in before"
-A OUTPUT -p tcp -m comment --comment "out before"
COMMIT
`

// predicateTable counts on its own what the rules should queue.
func predicateTable() string {
	b := bytecode(predicate)
	return `*mangle
-A PREROUTING ! -i lo -p tcp -m bpf --bytecode "` + b + `" -m comment --comment "in wanted"
-A OUTPUT -p tcp -m bpf --bytecode "` + b + `" -m comment --comment "out wanted"
COMMIT
`
}

// afterTable counts what goes on behind the jumps.
const afterTable = `*mangle
-A PREROUTING -p tcp -m comment --comment "in after"
-A OUTPUT -p tcp -m comment --comment "out after"
COMMIT
`

func newGateway(t *testing.T, command string) (client, gateway, server namespace) {
	t.Helper()
	return newGatewayWith(t, command, onePort)
}

func newGatewayWith(t *testing.T, command string, cfg rules.Config) (client, gateway, server namespace) {
	t.Helper()
	client, gateway, server = newNamespace(t), newNamespace(t), newNamespace(t)
	wire(t, client, "toGateway", "10.0.1.2/24", gateway, "toClient", "10.0.1.1/24")
	wire(t, server, "toGateway", "10.0.2.2/24", gateway, "toServer", "10.0.2.1/24")
	gateway.Run(t, "", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	gateway.restore(t, command, liveTable)
	gateway.restore(t, command, predicateTable())
	mustLoad(t, gateway.firewall(command), cfg)
	gateway.restore(t, command, afterTable)
	return client, gateway, server
}

// Hook numbers of linux/netfilter.h.
const (
	hookPreRouting = 0
	hookLocalOut   = 3
)

// queued is one packet that reached the queue.
type queued struct {
	hook uint8
	data []byte
}

// parts returns the flags, the sequence number and the payload.
func (q queued) parts() (flags byte, seq uint32, payload []byte) {
	t := q.data[int(q.data[0]&0x0f)*4:]
	return t[13], binary.BigEndian.Uint32(t[4:]), t[int(t[12]>>4)*4:]
}

func (q queued) src() netip.Addr { return netip.AddrFrom4([4]byte(q.data[12:16])) }

// queue is a daemon that accepts everything and remembers it.
type queue struct {
	mu   sync.Mutex
	seen []queued // guarded by mu
}

// listen starts the daemon of the namespace, which ends with the test.
func (ns namespace) listen(t *testing.T) *queue {
	t.Helper()
	file, err := os.Open("/run/netns/" + string(ns.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	nf, err := nfqueue.Open(&nfqueue.Config{
		NetNS: int(file.Fd()), NfQueue: onePort.Queue,
		MaxPacketLen: 0xffff, MaxQueueLen: 1024, Copymode: nfqueue.NfQnlCopyPacket, WriteTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	q := &queue{}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); nf.Close() })
	err = nf.RegisterWithErrorFunc(ctx, func(a nfqueue.Attribute) int {
		q.add(queued{*a.Hook, bytes.Clone(*a.Payload)})
		nf.SetVerdict(*a.PacketID, nfqueue.NfAccept)
		return 0
	}, func(error) int { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func (q *queue) add(p queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen = append(q.seen, p)
}

func (q *queue) packets() []queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]queued(nil), q.seen...)
}

// inHook returns how many of the packets were queued there.
func inHook(packets []queued, hook uint8) (n int) {
	for _, p := range packets {
		if p.hook == hook {
			n++
		}
	}
	return n
}

// route is where a test connection goes.
type route struct {
	from   namespace
	local  *net.TCPAddr // nil: any
	to     string
	server namespace
	listen string
}

// converse opens a connection, sends it messages of many sizes, has each
// echoed back, and closes it from both ends. It returns what was sent.
func converse(t *testing.T, r route) []byte {
	t.Helper()
	var l net.Listener
	r.server.Do(t, func() (err error) { l, err = net.Listen("tcp4", r.listen); return err })
	defer l.Close()
	echoed := make(chan error, 1)
	go func() { echoed <- trial.Echo(l) }()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if r.local != nil {
		dialer.LocalAddr = r.local
	}
	var c net.Conn
	r.from.Do(t, func() (err error) { c, err = dialer.Dial("tcp4", r.to); return err })
	defer c.Close()
	sent, err := trial.Talk(c)
	if err = errors.Join(err, <-echoed); err != nil {
		t.Fatal(err)
	}
	return sent
}

// stream joins the payloads that one end sent, by sequence number.
func stream(t *testing.T, packets []queued, src string) []byte {
	t.Helper()
	var joined []byte
	var first uint32
	for _, p := range packets {
		if p.src() != netip.MustParseAddr(src) {
			continue
		}
		flags, seq, payload := p.parts()
		if first == 0 && flags&flagACK != 0 && len(payload) > 0 {
			first = seq
		}
		if len(payload) == 0 {
			continue
		}
		if at := int(seq - first); at == len(joined) {
			joined = append(joined, payload...)
		} else if at > len(joined) {
			t.Fatalf("bytes %d to %d from %s were not queued", len(joined), at, src)
		}
	}
	return joined
}

// checkQueued checks that exactly the wanted segments were queued.
func checkQueued(t *testing.T, packets []queued) {
	t.Helper()
	both, fins := 0, map[netip.Addr]int{}
	for _, p := range packets {
		flags, _, payload := p.parts()
		if !trial.Wanted(flags, len(payload)) {
			t.Errorf("queued: %v flags %#x with %d bytes", p.src(), flags, len(payload))
		}
		if flags&(flagSYN|flagACK) == flagSYN|flagACK {
			both++
		}
		if flags&flagFIN != 0 {
			fins[p.src()]++
		}
	}
	if both == 0 || len(fins) == 0 {
		t.Errorf("queued %d SYN+ACK, and FIN from %v", both, fins)
	}
}

// settle polls the counters until test accepts them.
func settle(t *testing.T, ns namespace, command string, test func(n map[string]int) bool) map[string]int {
	t.Helper()
	var n map[string]int
	trial.Eventually(t, func() bool { n = ns.counters(t, command, "mangle"); return test(n) },
		func() string { return fmt.Sprintf("counters %v", n) })
	t.Logf("%v", n)
	return n
}

// A translated connection: what is queued is what the predicate says, in both
// directions, and the bytes are the stream. Queued packets skip the rules behind.
func TestKernelForwarded(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		client, gateway, server := newGateway(t, command)
		q := gateway.listen(t)
		sent := converse(t, route{from: client, to: "10.0.1.1:1723", server: server, listen: ":2000"})
		n := settle(t, gateway, command, func(n map[string]int) bool {
			return n["in wanted"] == len(q.packets()) && n["in after"] == n["in before"]-n["in wanted"]
		})
		packets := q.packets()
		checkQueued(t, packets)
		if inHook(packets, hookPreRouting) != len(packets) {
			t.Error("some were queued elsewhere than in PREROUTING")
		}
		for _, src := range []string{"10.0.1.2", "10.0.2.2"} {
			if got := stream(t, packets, src); !bytes.Equal(got, sent) {
				t.Errorf("queued %d bytes from %s, want the %d sent", len(got), src, len(sent))
			}
		}
		if n["in after"] < 3 { // SYN, its last ACK, and some more ACKs
			t.Errorf("only %d packets passed the queue by", n["in after"])
		}
	})
}

// Without a daemon the connection works, and the same packets skip the same rules.
func TestKernelBypass(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		client, gateway, server := newGateway(t, command)
		converse(t, route{from: client, to: "10.0.1.1:1723", server: server, listen: ":2000"})
		n := settle(t, gateway, command, func(n map[string]int) bool {
			return n["in after"] == n["in before"]-n["in wanted"]
		})
		if n["in wanted"] < 200 {
			t.Errorf("only %d packets wanted", n["in wanted"])
		}
	})
}

// Other connections, here one that is opened to another port of the same server
// from port 1723, never reach the queue.
func TestKernelOtherPorts(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		client, gateway, server := newGateway(t, command)
		client.IP(t, "route add 10.0.2.0/24 via 10.0.1.1")
		q := gateway.listen(t)
		converse(t, route{
			from: client, local: &net.TCPAddr{Port: 1723}, to: "10.0.2.2:2000", server: server, listen: ":2000",
		})
		settle(t, gateway, command, func(n map[string]int) bool {
			return n["in wanted"] > 200 && n["in after"] == n["in before"]
		})
		if got := len(q.packets()); got > 0 {
			t.Errorf("%d packets queued", got)
		}
	})
}

// A client on the gateway: what it sends is queued in OUTPUT, what it gets in
// PREROUTING.
func TestKernelOwnClient(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		_, gateway, server := newGateway(t, command)
		q := gateway.listen(t)
		sent := converse(t, route{from: gateway, to: "10.0.2.2:1723", server: server, listen: ":1723"})
		settle(t, gateway, command, func(n map[string]int) bool {
			packets := q.packets()
			return n["in wanted"] == inHook(packets, hookPreRouting) && n["out wanted"] == inHook(packets, hookLocalOut) &&
				n["in after"] == n["in before"]-n["in wanted"] && n["out after"] == n["out before"]-n["out wanted"]
		})
		checkQueued(t, q.packets())
		for _, src := range []string{"10.0.2.1", "10.0.2.2"} {
			if got := stream(t, q.packets(), src); !bytes.Equal(got, sent) {
				t.Errorf("queued %d bytes from %s, want the %d sent", len(got), src, len(sent))
			}
		}
	})
}

// Over the loopback interface every packet passes OUTPUT, then PREROUTING: it is
// queued once, in OUTPUT. So it is to an address of another interface, and with
// DNAT to another port.
func TestKernelLoopback(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		for _, row := range []struct{ to, listen string }{
			{"127.0.0.1:1723", "127.0.0.1:1723"}, {"10.0.1.1:1723", "10.0.1.1:1723"}, {"10.0.2.1:1723", ":3000"},
		} {
			t.Run(row.to, func(t *testing.T) { loopback(t, command, row.to, row.listen) })
		}
	})
}

func loopback(t *testing.T, command, to, listen string) {
	_, gateway, _ := newGateway(t, command)
	gateway.restore(t, command, "*nat\n-A OUTPUT -d 10.0.2.1 -p tcp --dport 1723 -j REDIRECT --to-ports 3000\nCOMMIT\n")
	q := gateway.listen(t)
	converse(t, route{from: gateway, to: to, server: gateway, listen: listen})
	n := settle(t, gateway, command, func(n map[string]int) bool {
		return n["out wanted"] == len(q.packets()) && n["in before"] == n["out before"]
	})
	checkQueued(t, q.packets())
	if got := inHook(q.packets(), hookLocalOut); got < 200 || got != n["out wanted"] || n["in after"] != n["in before"] {
		t.Errorf("%d queued in OUTPUT, counters %v", got, n)
	}
}

// A client on the gateway whose connection policy routing sends over a second
// wire: by a mark the nft backend does not do it for queued packets, see the
// package comment, by a rule on the port both do.
func TestKernelOwnClientPolicyRouting(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		t.Run("mark", func(t *testing.T) {
			n := secondWire(t, command, "fwmark 7")
			if n["out toServer"] > 0 && command == "iptables-legacy" {
				t.Errorf("%d packets left by the first wire", n["out toServer"])
			}
			if got := n["out second"]; got < n["out after"] {
				t.Errorf("%d packets left by the second wire, want the %d not queued", got, n["out after"])
			}
		})
		t.Run("port", func(t *testing.T) {
			if n := secondWire(t, command, "ipproto tcp dport 1723"); n["out toServer"] > 0 {
				t.Errorf("%d packets left by the first wire", n["out toServer"])
			}
		})
	})
}

// secondWire sends a connection of the gateway where an ip rule with selector
// leads, and returns the counters. Its packets are marked 7.
func secondWire(t *testing.T, command, selector string) map[string]int {
	t.Helper()
	_, gateway, server := newGateway(t, command)
	wire(t, gateway, "second", "10.0.3.1/24", server, "second", "10.0.3.2/24")
	for _, ns := range []namespace{gateway, server} {
		ns.Run(t, "", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
	}
	gateway.IP(t, "route add 10.0.2.2/32 via 10.0.3.2 table 7")
	gateway.IP(t, "rule add "+selector+" table 7")
	gateway.restore(t, command, `*mangle
-I OUTPUT -d 10.0.2.2 -p tcp -j MARK --set-mark 7
-A POSTROUTING -p tcp -o toServer -m comment --comment "out toServer"
-A POSTROUTING -p tcp -o second -m comment --comment "out second"
COMMIT
`)
	q := gateway.listen(t)
	converse(t, route{from: gateway, to: "10.0.2.2:1723", server: server, listen: ":1723"})
	return settle(t, gateway, command, func(n map[string]int) bool {
		return n["out wanted"] == inHook(q.packets(), hookLocalOut) && n["out second"]+n["out toServer"] == n["out before"]
	})
}
