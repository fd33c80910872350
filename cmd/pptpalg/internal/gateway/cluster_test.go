package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/errgroup"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/nfqueue"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/store/cluster"
	"pptpalg/cmd/pptpalg/internal/store/cluster/memory"
	"pptpalg/cmd/pptpalg/internal/store/cluster/state"
	"pptpalg/conntrack"
)

var publicP, publicQ = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")

// clusterKernel is a conntrack with many connections, safe for concurrent use.
type clusterKernel struct {
	mu    sync.Mutex
	tcp   map[calls.Tuple]tcpEntry // by original tuple
	flows map[calls.Flow]bool
	addrs []netip.Addr
	lists int // how often all connections were listed
}

type tcpEntry struct {
	calls.Connection
	life   uint32
	remade int
	loose  bool
}

func newClusterKernel(addrs ...netip.Addr) *clusterKernel {
	return &clusterKernel{tcp: make(map[calls.Tuple]tcpEntry), flows: make(map[calls.Flow]bool), addrs: addrs}
}

func (k *clusterKernel) locked(do func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	do()
}

func (k *clusterKernel) Connection(t calls.Tuple) (c calls.Connection, err error) {
	err = fmt.Errorf("get: %w", conntrack.ErrNotFound)
	k.locked(func() {
		for _, e := range k.tcp {
			if e.Original == t || e.Reply == t {
				c, err = e.Connection, nil
			}
		}
	})
	return c, err
}

func (k *clusterKernel) ConnectionIn(t calls.Tuple, _ uint16) (calls.Connection, error) {
	return k.Connection(t)
}

func (k *clusterKernel) Connections([]uint16) (all []calls.Connection, err error) {
	k.locked(func() {
		k.lists++
		for _, e := range k.tcp {
			all = append(all, e.Connection)
		}
	})
	return all, nil
}

func (k *clusterKernel) StandingConnections(known []calls.Connection) (all []calls.Connection, err error) {
	k.locked(func() {
		for _, c := range known {
			if e, there := k.tcp[c.Original]; there {
				all = append(all, e.Connection)
			}
		}
	})
	return all, nil
}

func (k *clusterKernel) Traffic(into map[calls.Flow]calls.Traffic, _ func(*conntrack.Stray) bool) ([]conntrack.Stray, error) {
	clear(into)
	k.locked(func() {
		for f := range k.flows {
			into[f] = calls.Traffic{}
		}
	})
	return nil, nil
}

func (k *clusterKernel) StandingTraffic(into map[calls.Flow]calls.Traffic, known []calls.Flow) error {
	_, err := k.Traffic(into, nil)
	return err
}

func (k *clusterKernel) Apply(events []calls.Event) map[int]error {
	k.locked(func() {
		for i := range events {
			switch e := &events[i]; e.Kind {
			case calls.Install:
				k.flows[e.Flow.Unmarked()] = true
			case calls.Remove:
				delete(k.flows, e.Flow.Unmarked())
			}
		}
	})
	return nil
}

func (k *clusterKernel) ApplyLate(events []calls.Event) map[int]error { return k.Apply(events) }
func (k *clusterKernel) ApplyCounting(events []calls.Event, _ func(calls.Flow, calls.Traffic)) map[int]error {
	return k.Apply(events)
}
func (k *clusterKernel) Renew(func(calls.Flow) bool) (int, error)          { return 0, nil }
func (k *clusterKernel) Leave(calls.Tuple, uint16, conntrack.Bypass) error { return nil }
func (k *clusterKernel) Probe() error                                      { return nil }
func (k *clusterKernel) Close() error                                      { return nil }
func (k *clusterKernel) Revive(c calls.Connection) error                   { k.set(c, ownLife); return nil }
func (k *clusterKernel) Has(f calls.Flow) (there bool, err error) {
	k.locked(func() { there = k.flows[f] })
	return there, nil
}
func (k *clusterKernel) list() (all []netip.Addr, err error) {
	k.locked(func() { all = slices.Clone(k.addrs) })
	return all, nil
}
func (k *clusterKernel) entry(c *calls.Connection) (e tcpEntry) {
	k.locked(func() { e = k.tcp[c.Original] })
	return e
}
func (k *clusterKernel) count() (n int) { k.locked(func() { n = len(k.flows) }); return n }
func (k *clusterKernel) set(c calls.Connection, life uint32) {
	k.locked(func() { k.tcp[c.Original] = tcpEntry{Connection: c, life: life} })
}
func (k *clusterKernel) Follow(all []calls.Connection, l uint32) map[int]error {
	return k.each(all, func(c calls.Connection) { k.set(c, l) })
}
func (k *clusterKernel) lose(c *calls.Connection) { k.locked(func() { delete(k.tcp, c.Original) }) }

func (k *clusterKernel) each(all []calls.Connection, do func(calls.Connection)) map[int]error {
	for _, c := range all {
		do(c)
	}
	return nil
}

func (k *clusterKernel) Remake(all []calls.Connection, life uint32) map[int]error {
	return k.each(all, func(c calls.Connection) {
		k.locked(func() { k.tcp[c.Original] = tcpEntry{Connection: c, life: life, remade: k.tcp[c.Original].remade + 1} })
	})
}

func (k *clusterKernel) Loosen(all []calls.Connection, life uint32) map[int]error {
	return k.each(all, func(c calls.Connection) {
		k.locked(func() { k.tcp[c.Original] = tcpEntry{c, life, k.tcp[c.Original].remade, true} })
	})
}

func (k *clusterKernel) SetTimeout(all []calls.Connection, life uint32) (failed map[int]error) {
	failed = make(map[int]error)
	k.locked(func() {
		for i, c := range all {
			e, there := k.tcp[c.Original]
			if !there {
				failed[i] = conntrack.ErrNotFound
				continue
			}
			e.life = life
			k.tcp[c.Original] = e
		}
	})
	return failed
}

// site is two networks with gateways between them, and a shared store.
type site struct {
	t     testing.TB
	store *memory.Memory
	wait  time.Duration // of its gateways
	parts uint8         // of public addresses, of which gateway a has the first; 0 for one
}

// member is a gateway of a cluster, without a queue.
type member struct {
	*Gateway
	t      testing.TB
	name   string
	dir    string
	kernel *clusterKernel
	link   *memory.Link
	stop   func()
}

func newSite(t testing.TB) *site { return &site{t, memory.New(), testWait, 0} }

const testWait = 2 * time.Second // that nobody waits for in vain unless he is to

var lives uint64

// start has a gateway run; its kernel and its journal may be an earlier one's.
func (s *site) start(name, dir string, k *clusterKernel) *member {
	return s.startWith(name, dir, k, memory.Faults{})
}

func (s *site) startWith(name, dir string, k *clusterKernel, faults memory.Faults) *member {
	s.t.Helper()
	lives++
	m := &member{t: s.t, name: name, dir: dir, kernel: k, link: s.store.Open()}
	m.link.Set(faults)
	var share calls.Share
	var part string
	if s.parts > 0 {
		share = calls.Share{Of: s.parts, Mine: name[0] - 'a'}
		part = fmt.Sprintf("%d/%d", share.Mine+1, share.Of)
	}
	cfg := Config{
		DataPath: datapath.Kernel, Ports: []uint16{1723}, StateDir: dir, Table: calls.DefaultConfig(), Connections: 10,
		Cluster: &ClusterConfig{Shared: m.link, Member: state.Member{Name: name, Life: lives, Share: part}, Wait: s.wait, Share: share},
	}
	g := newGateway(cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	g.kernel, g.lister, g.viewer, g.listener = k, k, k, new(fakeEvents)
	g.homes.list = k.list
	g.choosePath()
	m.Gateway = g
	if err := g.openStore(); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	g.runCluster(ctx, group)
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(group.Wait(), g.store.Close()); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(m.stop)
	if faults == (memory.Faults{}) {
		m.until("is loaded and a member", func() bool { st := g.share.store.Status(); return g.share.isWhole() && st.Joined })
	}
	g.adopt()
	g.audit()
	return m
}

func (m *member) until(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: never: %s; %+v; calls %v", m.name, what, m.share.store.Status(), m.Calls())
		}
	}
}

// has changes which addresses are here.
func (m *member) has(addrs ...netip.Addr) {
	m.kernel.locked(func() { m.kernel.addrs = addrs })
	m.readdress()
}

func (m *member) mine(public netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.share.mine[public]
}

// call returns the call of a client, as the gateway has it. What has happened to it is in the kernel, too.
func (m *member) call(w *wire) (calls.View, bool) {
	m.order.Lock()
	defer m.order.Unlock()
	all := m.Calls()
	i := slices.IndexFunc(all, func(v calls.View) bool { return v.Control == w.Original })
	if i < 0 {
		return calls.View{}, false
	}
	return all[i], true
}

func (m *member) knows(w *wire, st calls.State) func() bool {
	return func() bool {
		v, there := m.call(w)
		return there && v.State == st
	}
}

func (m *member) lacks(w *wire) func() bool {
	return func() bool { _, there := m.call(w); return !there }
}

// wire is a control connection, which passes whatever gateway has the address.
type wire struct {
	t testing.TB
	calls.Connection
	seq [2]uint32
}

// dial returns a connection of a client behind a public address. The gateway's kernel has it.
func (m *member) dial(n byte, public netip.Addr) *wire {
	server := netip.MustParseAddrPort("203.0.113.9:1723")
	c := calls.Connection{
		Original: calls.Tuple{Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 4000), Dst: server},
		Reply:    calls.Tuple{Src: server, Dst: netip.AddrPortFrom(public, 4000+uint16(n))},
	}
	m.kernel.set(c, 432000)
	return &wire{m.t, c, [2]uint32{1000, 2000}}
}

// say has an end send a message by way of a gateway and returns the message that arrives; nil if it
// does not.
func (w *wire) say(m *member, from calls.Side, typ pptp.Type, own, peer pptp.CallID, result byte) []byte {
	w.t.Helper()
	return w.sayWhile(m, from, typ, own, peer, result, func() {})
}

// sayWhile is say with something that happens while the packet waits.
func (w *wire) sayWhile(m *member, from calls.Side, typ pptp.Type, own, peer pptp.CallID, result byte, meanwhile func()) []byte {
	w.t.Helper()
	tuple := w.Original
	if from == calls.Responder {
		tuple = w.Reply
	}
	l, _ := typ.Layout()
	b := make([]byte, l.Size)
	binary.BigEndian.PutUint16(b, uint16(l.Size))
	binary.BigEndian.PutUint16(b[2:], pptp.ControlMessage)
	binary.BigEndian.PutUint32(b[4:], pptp.MagicCookie)
	binary.BigEndian.PutUint16(b[8:], uint16(typ))
	for at, id := range map[int]pptp.CallID{l.Own: own, l.Peer: peer} {
		if at != 0 {
			binary.BigEndian.PutUint16(b[at:], uint16(id))
		}
	}
	if l.Result != 0 {
		b[l.Result] = result
	}
	p := &nfqueue.Packet{Payload: segment(w.t, tuple, [2]uint32{w.seq[from], w.seq[from.Other()]}, b)}
	v := m.packet(p)
	meanwhile()
	release := m.settle()
	m.released()
	if v == nfqueue.Drop || !release {
		return nil
	}
	w.seq[from] += uint32(len(b))
	return p.Payload[len(p.Payload)-len(b):]
}

// own returns the sender's ID in a message that has passed.
func ownID(typ pptp.Type, b []byte) pptp.CallID {
	l, _ := typ.Layout()
	if b == nil {
		return 0
	}
	return pptp.CallID(binary.BigEndian.Uint16(b[l.Own:]))
}

func peerID(typ pptp.Type, b []byte) pptp.CallID {
	l, _ := typ.Layout()
	return pptp.CallID(binary.BigEndian.Uint16(b[l.Peer:]))
}

// setUp sets up a call and returns its public ID.
func (w *wire) setUp(m *member, own, server pptp.CallID) pptp.CallID {
	w.t.Helper()
	public := ownID(pptp.OutgoingCallRequest, w.say(m, calls.Initiator, pptp.OutgoingCallRequest, own, 0, 0))
	reply := w.say(m, calls.Responder, pptp.OutgoingCallReply, server, public, 1)
	if got := peerID(pptp.OutgoingCallReply, reply); got != own {
		w.t.Errorf("the client is told of call %d, and has %d", got, own)
	}
	return public
}

// clears clears a call, and checks that the server is told of its public ID. Before, each end
// acknowledges what the other one has said: until then a stream that a gateway has joined ends
// nothing.
func (w *wire) clears(m *member, own, public pptp.CallID) {
	w.t.Helper()
	for range 2 {
		w.say(m, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
		w.say(m, calls.Responder, pptp.EchoReply, 0, 0, 1)
	}
	if got := ownID(pptp.CallClearRequest, w.say(m, calls.Initiator, pptp.CallClearRequest, own, 0, 0)); got != public {
		w.t.Errorf("the server is told to clear call %d, and has %d", got, public)
	}
}

// pair starts gateways a, which has the address, and b.
func pair(t *testing.T) (s *site, a, b *member) {
	s = newSite(t)
	return s, s.start("a", t.TempDir(), newClusterKernel(publicP)), s.start("b", t.TempDir(), newClusterKernel())
}

// impatient starts gateways a, which has the address, and b, which hardly wait for the shared store. Two clients dial;
// both kernels have their connections.
func impatient(t *testing.T) (s *site, a, b *member, w, v *wire) {
	s = newSite(t)
	s.wait = 20 * time.Millisecond
	a, b = s.start("a", t.TempDir(), newClusterKernel(publicP)), s.start("b", t.TempDir(), newClusterKernel())
	w, v = a.dial(1, publicP), a.dial(2, publicP)
	b.kernel.set(w.Connection, 432000)
	b.kernel.set(v.Connection, 432000)
	return s, a, b, w, v
}

// TestFollowed: what one gateway does is in the other's table and kernel, and ends there.
func TestFollowed(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	if n := b.kernel.count(); n != 2 {
		t.Errorf("%d flows are in b's kernel", n)
	}
	if e := b.kernel.entry(&w.Connection); e.life != 864_000 {
		t.Errorf("the connection has %d s", e.life)
	}
	w.clears(a, 7, 7)
	w.say(a, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
	b.until("has seen the end", func() bool {
		return b.lacks(w)() && b.kernel.count() == 0 && b.kernel.entry(&w.Connection).life == ownLife
	})
	if n := a.calls(); n != 0 {
		t.Errorf("a has %v calls", n)
	}
}

// TestTakenMeanwhile: what a gateway makes of a packet, while another one takes the address, goes
// nowhere. The packet comes again by the other one, which knows nothing of it and needs to know
// nothing.
func TestTakenMeanwhile(t *testing.T) {
	_, a, b := pair(t)
	w, v := a.dial(1, publicP), a.dial(2, publicP)
	b.kernel.set(w.Connection, 432000)
	b.kernel.set(v.Connection, 432000)
	first := w.setUp(a, 7, 9)
	second := ownID(pptp.OutgoingCallRequest, v.say(a, calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0))
	b.until("follows", b.knows(v, calls.Requested))
	a.link.Set(memory.Faults{Deaf: true})
	b.has(publicP)
	b.until("owns the address", func() bool { return b.mine(publicP) })
	yields := func() {
		a.order.Lock()
		defer a.order.Unlock()
		a.carryOut() // as whoever gives an address away
	}
	if got := v.sayWhile(a, calls.Responder, pptp.OutgoingCallReply, 10, second, 1, yields); got != nil {
		t.Errorf("a reply passes that nobody knows of: % x", got)
	}
	if n := testutil.ToFloat64(a.share.metrics.withheld); n != 1 {
		t.Errorf("%v packets withheld", n)
	}
	a.has()
	a.link.Set(memory.Faults{})
	if got := peerID(pptp.OutgoingCallReply, v.say(b, calls.Responder, pptp.OutgoingCallReply, 10, second, 1)); got != 7 {
		t.Errorf("the client is told of call %d", got)
	}
	b.until("has the call", b.knows(v, calls.Established))
	a.until("follows", a.knows(v, calls.Established))
	third := ownID(pptp.OutgoingCallRequest, w.say(b, calls.Initiator, pptp.OutgoingCallRequest, 8, 0, 0))
	if third == first || third == second || third == 0 {
		t.Errorf("public IDs %d, %d, %d", first, second, third)
	}
	a.until("has what b has", func() bool { return len(a.Calls()) == len(b.Calls()) })
}

// TestAddressMoves to another gateway, which goes on with the calls, and back.
func TestAddressMoves(t *testing.T) {
	_, a, b := pair(t)
	w, v := a.dial(1, publicP), a.dial(2, publicP)
	first, second := w.setUp(a, 7, 9), v.setUp(a, 7, 10)
	if first == second {
		t.Fatalf("both have public ID %d", first)
	}
	a.has()
	a.until("has made the entries anew", func() bool {
		return a.kernel.entry(&w.Connection).remade == 1 && a.kernel.entry(&v.Connection).remade == 1
	})
	b.has(publicP)
	third := w.setUp(b, 8, 11)
	if third == first || third == second {
		t.Errorf("public ID %d twice", third)
	}
	v.clears(b, 7, second)
	b.until("has the entries as its own", func() bool { return b.kernel.entry(&w.Connection).life == 300 })
	a.until("follows", func() bool { return len(a.Calls()) == 2 && a.lacks(v)() })
	if n, followed := a.calls(), b.table.Followed(); n != 0 || followed != 0 {
		t.Errorf("a owns %v calls, b follows %d", n, followed)
	}
	if n := testutil.ToFloat64(b.share.metrics.takeovers); n != 1 {
		t.Errorf("%v takeovers", n)
	}
	b.has()
	a.has(publicP)
	w.clears(a, 7, first)
	w.clears(a, 8, third)
	b.until("follows", b.lacks(w))
}

// TestPacketBeforeAddress: a packet that comes before the kernel has told of the address.
func TestPacketBeforeAddress(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	public := w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	b.kernel.locked(func() { b.kernel.addrs = []netip.Addr{publicP} })
	b.share.looked = time.Time{}
	w.clears(b, 7, public)
	a.until("has lost the address", func() bool { return !a.mine(publicP) })
}

// TestWrongGateway edits nothing, and takes nothing.
func TestWrongGateway(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	v := a.dial(2, publicP)
	v.setUp(a, 7, 10)
	b.until("follows", b.knows(v, calls.Established))
	b.share.looking.Lock()
	b.share.looked = time.Now().Add(time.Hour) // else some come twice: the address may have come meanwhile
	b.share.looking.Unlock()
	v.clears(b, 7, 7) // as it was sent
	if !a.mine(publicP) || b.mine(publicP) {
		t.Error("the address has moved")
	}
	if n := testutil.ToFloat64(b.metrics.series(ending{alg.Accept, alg.Elsewhere})); n != 5 {
		t.Errorf("%v packets are counted", n)
	}
}

// TestLatePacket: a packet that was on its way to a gateway when the address has gone does not pass
// unedited. It comes again by the other one.
func TestLatePacket(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	v := a.dial(2, publicP)
	public := ownID(pptp.OutgoingCallRequest, v.say(a, calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0))
	b.until("follows", b.knows(v, calls.Requested))
	a.has()
	a.until("follows", func() bool { return !a.mine(publicP) })
	b.has(publicP)
	b.until("owns the address", func() bool { return b.mine(publicP) })
	a.mu.Lock()
	a.share.left[publicP] = time.Now().Add(time.Hour) // however long this has taken
	a.mu.Unlock()
	if got := v.say(a, calls.Responder, pptp.OutgoingCallReply, 10, public, 1); got != nil {
		t.Errorf("a lets the reply to call %d pass", peerID(pptp.OutgoingCallReply, got))
	}
	if got := peerID(pptp.OutgoingCallReply, v.say(b, calls.Responder, pptp.OutgoingCallReply, 10, public, 1)); got != 7 {
		t.Errorf("b lets the reply to call %d pass", got)
	}
	a.mu.Lock()
	a.share.left[publicP] = time.Now().Add(-late)
	a.mu.Unlock()
	a.until("lets a packet on the wrong way pass", func() bool { return w.say(a, calls.Initiator, pptp.EchoRequest, 0, 0, 0) != nil })
}

// TestLateForAnother: a packet was on its way to a gateway that had the address beside its owner when the
// address has gone.
func TestLateForAnother(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	a.until("follows", func() bool { return !a.mine(publicP) })
	a.mu.Lock()
	delete(a.share.left, publicP) // it was b's for long
	a.mu.Unlock()
	a.has()
	a.mu.Lock()
	left := a.share.left[publicP]
	a.share.left[publicP] = left.Add(time.Hour) // however long this takes
	a.mu.Unlock()
	if got := w.say(a, calls.Initiator, pptp.CallClearRequest, 7, 0, 0); left.IsZero() || got != nil {
		t.Errorf("a has noticed at %v, and lets a request to clear call %d pass", left, ownID(pptp.CallClearRequest, got))
	}
}

// TestSlept: a gateway that has slept while its address has gone edits nothing before it knows.
func TestSlept(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.kernel.locked(func() { a.kernel.addrs = nil }) // nobody tells it
	b.has(publicP)
	a.share.looking.Lock()
	a.share.looked = time.Now().Add(-time.Hour)
	a.share.looking.Unlock()
	if got := w.say(a, calls.Initiator, pptp.OutgoingCallRequest, 8, 0, 0); got != nil {
		t.Errorf("a request passes as call %d", ownID(pptp.OutgoingCallRequest, got))
	}
	if a.mine(publicP) {
		t.Error("the address is still a's")
	}
}

// TestSleptWhileTaking: a gateway has slept between its word that an address is its own and the shared
// store's answer. The address has gone to another gateway meanwhile, and stays with that, though nobody has
// told the one that slept.
func TestSleptWhileTaking(t *testing.T) {
	s, a, b := pair(t)
	w := a.dial(1, publicP)
	a.link.Set(memory.Faults{Delay: 200 * time.Millisecond})
	passed := make(chan bool)
	go func() { passed <- w.say(a, calls.Initiator, pptp.EchoRequest, 0, 0, 0) != nil }()
	a.until("is about to own it", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.share.taking[publicP] != nil
	})
	a.kernel.locked(func() { a.kernel.addrs = nil })
	b.has(publicP)
	v := b.dial(2, publicP)
	public := v.setUp(b, 7, 9)
	a.until("has heard of b", a.knows(v, calls.Established))
	a.link.Set(memory.Faults{})
	time.AfterFunc(200*time.Millisecond, a.readdress)
	if <-passed {
		t.Error("a lets its packet pass")
	}
	if owner, err := state.DecodeOwner(s.store.Items()[state.OwnerKey(publicP)].Value); err != nil || owner.Name != "b" || !b.mine(publicP) {
		t.Errorf("the address is %+v's, %v; b takes it for its own: %v", owner, err, b.mine(publicP))
	}
	v.clears(b, 7, public)
}

// TestUnusedAddressGoes: an address that nobody has used yet goes. A packet that was on its way does not have
// the gateway take it back from whoever has it now.
func TestUnusedAddressGoes(t *testing.T) {
	_, a, _ := pair(t)
	w := a.dial(1, publicP)
	a.has()
	w.say(a, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	if claims := a.share.store.Status().Claims; len(claims) > 0 {
		t.Errorf("a says that %v are its own", claims)
	}
	a.has(publicP)
	if claims := a.share.store.Status().Claims; len(claims) > 0 {
		t.Errorf("a says that %v are its own, and nobody uses them", claims)
	}
	w.setUp(a, 7, 9)
}

// TestTakesWhatHasGone: what a gateway is to own although it has gone holds up nothing else for long.
func TestTakesWhatHasGone(t *testing.T) {
	s := newSite(t)
	a := s.start("a", t.TempDir(), newClusterKernel(publicP))
	a.has()
	a.mu.Lock()
	a.acquire(publicP) // as for a call of the journal
	a.mu.Unlock()
	a.dial(1, publicQ).setUp(a, 7, 9)
	a.until("owns both", func() bool { return a.mine(publicP) && a.mine(publicQ) })
}

// TestStoreHangs: the address moves, and nobody says who owns it. A packet waits, not for ever,
// and is edited right.
func TestStoreHangs(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	public := w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	b.link.Set(memory.Faults{Hang: true})
	b.has(publicP)
	began := time.Now()
	w.clears(b, 7, public)
	if took := time.Since(began); took < testWait/2 || took > 5*testWait {
		t.Errorf("the packet has waited %v", took)
	}
	second := w.setUp(b, 8, 10)
	b.link.Set(memory.Faults{})
	a.until("follows", func() bool { return !a.mine(publicP) && a.knows(w, calls.Established)() })
	b.until("is not degraded", func() bool { b.shrink(); return !b.share.store.Status().Degraded })
	w.clears(b, 8, second)
}

// TestAddressFlaps: an address that was gone for a while is this gateway's again, and so are
// its calls.
func TestAddressFlaps(t *testing.T) {
	s := newSite(t)
	a := s.start("a", t.TempDir(), newClusterKernel(publicP))
	w := a.dial(1, publicP)
	public := w.setUp(a, 7, 9)
	for range 3 {
		a.has()
		a.has(publicP)
	}
	w.clears(a, 7, public)
	if !a.mine(publicP) {
		t.Error("it is nobody's")
	}
	second := w.setUp(a, 8, 10)
	a.has()
	a.compare()
	a.has(publicP)
	w.clears(a, 8, second)
}

// TestOwnerRestarts: its calls are its own again, what its journal knows and the shared store does not included.
func TestOwnerRestarts(t *testing.T) {
	for _, addressed := range []bool{true, false} {
		s := newSite(t)
		kernel := newClusterKernel()
		if addressed { // else its public address is routed to it
			kernel.addrs = []netip.Addr{publicP}
		}
		a, b := s.start("a", t.TempDir(), kernel), s.start("b", t.TempDir(), newClusterKernel())
		w := a.dial(1, publicP)
		public := w.setUp(a, 7, 9)
		b.until("follows", b.knows(w, calls.Established))
		a.link.Set(memory.Faults{Err: memory.ErrDown})
		second := w.setUp(a, 8, 10)
		w.clears(a, 7, public)
		w.say(a, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
		a.stop()
		again := s.start("a", a.dir, a.kernel)
		again.until("owns it", func() bool { return again.mine(publicP) })
		b.until("is told", func() bool {
			again.shrink()
			all := b.Calls()
			return len(all) == 1 && all[0].PNS.Own == 8
		})
		w.clears(again, 8, second)
		if n := again.kernel.count(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
		again.stop()
		b.stop()
	}
}

// TestRestartsWhileAnotherIsUnheard: a gateway whose daemon has died restarts, and takes the address of its calls
// as before, for the gateway that has it now could not say so yet. What that one has set up and cleared meanwhile
// stays so.
func TestRestartsWhileAnotherIsUnheard(t *testing.T) {
	for name, faults := range map[string]memory.Faults{"it is not heard": {Hang: true}, "it is heard late": {Err: memory.ErrDown, Late: true}} {
		t.Run(name, func(t *testing.T) {
			s, a, b, w, v := impatient(t)
			first := w.setUp(a, 7, 9)
			b.until("follows", b.knows(w, calls.Established))
			a.stop()
			a.kernel.locked(func() { a.kernel.addrs = nil })
			b.link.Set(faults)
			b.has(publicP)
			second := v.setUp(b, 7, 10)
			w.clears(b, 7, first)
			w.say(b, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
			again := s.start("a", a.dir, a.kernel)
			again.until("owns it", func() bool { return again.mine(publicP) })
			s.store.Arrive()
			b.link.Set(memory.Faults{})
			b.until("owns it, and has written all", func() bool {
				b.shrink()
				st := b.share.store.Status()
				return b.mine(publicP) && !again.mine(publicP) && !st.Degraded && st.Pending == 0
			})
			again.until("follows", func() bool { return again.knows(v, calls.Established)() && again.lacks(w)() })
			if !b.knows(v, calls.Established)() || !b.lacks(w)() || b.kernel.count() != 2 {
				t.Errorf("b has %d flows, and %v", b.kernel.count(), b.Calls())
			}
			v.clears(b, 7, second)
		})
	}
}

// TestJournalYields: a gateway is about to take the address of calls of its journal, which is on none of its
// interfaces, when it hears that another one has it by now. It stays with that one.
func TestJournalYields(t *testing.T) {
	s, a, b := pair(t)
	w := a.dial(1, publicP)
	public := w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.stop()
	a.kernel.locked(func() { a.kernel.addrs = nil })
	again := s.startWith("a", a.dir, a.kernel, memory.Faults{Late: true})
	again.until("is about to take it", func() bool {
		again.mu.Lock()
		defer again.mu.Unlock()
		return again.share.taking[publicP] != nil
	})
	b.kernel.set(w.Connection, 300)
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	owner := s.store.Items()[state.OwnerKey(publicP)]
	again.link.Set(memory.Faults{})
	again.until("follows", func() bool {
		st := again.share.store.Status()
		return st.Joined && !st.Broken && st.Revision == st.Latest && len(st.Claims) == 0
	})
	if n := s.store.Arrive(); n > 0 {
		t.Errorf("%d late writes are done", n)
	}
	if is := s.store.Items()[state.OwnerKey(publicP)]; is.Revision != owner.Revision {
		t.Errorf("it is taken from b: %+v", is)
	}
	w.clears(b, 7, public)
}

// TestReturnsTooLate: another gateway has taken over meanwhile. What the journal knows is outdated.
func TestReturnsTooLate(t *testing.T) {
	s, a, b := pair(t)
	w, v := a.dial(1, publicP), a.dial(2, publicP)
	first, second := w.setUp(a, 7, 9), v.setUp(a, 7, 10)
	b.until("follows", b.knows(v, calls.Established))
	a.stop()
	b.has(publicP)
	v.clears(b, 7, second)
	v.say(b, calls.Responder, pptp.CallDisconnectNotify, 10, 0, 1)
	third := w.setUp(b, 8, 11)
	b.until("has written all", func() bool { return b.share.store.Status().Pending == 0 })
	for _, addressed := range []bool{false, true} {
		if addressed {
			b.has()
			b.until("has written all", func() bool { return b.share.store.Status().Pending == 0 })
			a.kernel.locked(func() { a.kernel.addrs = []netip.Addr{publicP} })
		} else {
			a.kernel.locked(func() { a.kernel.addrs = nil })
		}
		again := s.start("a", a.dir, a.kernel)
		again.until("owns it if it has it", func() bool { return again.mine(publicP) == addressed })
		if n := len(again.Calls()); n != 2 || again.kernel.count() != 4 {
			t.Errorf("%d calls, %d flows: %v", n, again.kernel.count(), again.Calls())
		}
		if e := again.kernel.entry(&w.Connection); !addressed && (e.remade != 1 || e.life != followedLife) {
			again.until("has made the entry anew", func() bool { e := again.kernel.entry(&w.Connection); return e.remade == 1 && e.life == followedLife })
		}
		if addressed {
			w.clears(again, 7, first)
			w.clears(again, 8, third)
		}
		again.stop()
	}
}

// TestStartsWithoutStore: the shared store is not there. The gateway goes on with the calls of its
// journal that have their public addresses here, and with those that are on no interface.
func TestStartsWithoutStore(t *testing.T) {
	for name, addrs := range map[string][]netip.Addr{"here": {publicP}, "routed": nil} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			a := s.start("a", t.TempDir(), newClusterKernel(addrs...))
			w := a.dial(1, publicP)
			public := w.setUp(a, 7, 9)
			a.stop()
			again := s.startWith("a", a.dir, a.kernel, memory.Faults{Err: memory.ErrDown})
			w.clears(again, 7, public)
			second := w.setUp(again, 8, 10)
			again.link.Set(memory.Faults{})
			again.until("is a member", func() bool { again.shrink(); st := again.share.store.Status(); return st.Joined && !st.Degraded })
			w.clears(again, 8, second)
		})
	}
}

// TestAuditOfFollowed: whatever the kernel of a gateway that stands by loses is made again, and
// no call ends.
func TestAuditOfFollowed(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	b.cfg.Idle = time.Nanosecond
	for range 5 {
		b.kernel.lose(&w.Connection)
		b.kernel.locked(func() { clear(b.kernel.flows) })
		b.compare()
		if e := b.kernel.entry(&w.Connection); len(b.Calls()) != 1 || e.life != followedLife || b.kernel.count() != 2 {
			t.Fatalf("%d calls, %d s, %d flows", len(b.Calls()), e.life, b.kernel.count())
		}
	}
	closed := w.Connection
	closed.Closing, closed.Reset = true, true
	b.kernel.set(closed, 10)
	for range 3 {
		b.compare()
	}
	if len(b.Calls()) != 1 || len(a.Calls()) != 1 {
		t.Errorf("b has %d calls, a %d", len(b.Calls()), len(a.Calls()))
	}
}

// bothHaveIt has gateway b take the address that a has, too, with one call.
func bothHaveIt(t *testing.T) (a, b *member, w *wire, public pptp.CallID) {
	t.Helper()
	_, a, b = pair(t)
	w = a.dial(1, publicP)
	public = w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	a.until("follows", func() bool { return !a.mine(publicP) })
	return a, b, w, public
}

// TestBothHaveIt: the one that was last owns the address; the other follows, and takes it when
// it alone has it.
func TestBothHaveIt(t *testing.T) {
	a, b, w, public := bothHaveIt(t)
	a.mu.Lock()
	a.share.left[publicP] = time.Now().Add(-late)
	a.share.others[publicP] = holding{name: "b", since: time.Now().Add(time.Hour)} // however long this has taken
	a.mu.Unlock()
	if got := w.say(a, calls.Initiator, pptp.CallClearRequest, 7, 0, 0); got != nil {
		t.Errorf("a request to clear call %d passes unedited", ownID(pptp.CallClearRequest, got))
	}
	if !b.mine(publicP) || a.mine(publicP) {
		t.Error("it is taken back at once")
	}
	a.until("has loosened the entry", func() bool { e := a.kernel.entry(&w.Connection); return e.loose && e.life == followedLife })
	if e := a.kernel.entry(&w.Connection); e.remade != 0 {
		t.Error("a was without the entry for a moment, and its packets come")
	}
	a.has()
	a.until("has made it anew", func() bool { e := a.kernel.entry(&w.Connection); return e.remade == 1 && !e.loose })
	a.has(publicP)
	a.until("owns it", func() bool { return a.mine(publicP) })
	w.clears(a, 7, public)
}

// TestTakesBack: two gateways have an address, and the one that has taken it loses it without a word.
func TestTakesBack(t *testing.T) {
	a, b, w, public := bothHaveIt(t)
	b.has()
	a.mu.Lock()
	a.share.others[publicP] = holding{name: "b", since: time.Now().Add(-contested)}
	a.mu.Unlock()
	w.clears(a, 7, public)
}

// TestTake: a command says where an address is that is on no interface.
func TestTake(t *testing.T) {
	s := newSite(t)
	a, b := s.start("a", t.TempDir(), newClusterKernel()), s.start("b", t.TempDir(), newClusterKernel())
	w := a.dial(1, publicP)
	public := w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	if err := b.Take(publicP); err != nil {
		t.Fatal(err)
	}
	w.say(b, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	a.until("follows", func() bool { return !a.mine(publicP) })
	if err := b.Leave(publicP); err != nil || b.mine(publicP) {
		t.Errorf("%v; b has it: %v", err, b.mine(publicP))
	}
	if err := a.Take(publicP); err != nil {
		t.Fatal(err)
	}
	w.clears(a, 7, public)
}

// TestStoreLosesAll: no call ends, and all is written again.
func TestStoreLosesAll(t *testing.T) {
	s, a, b := pair(t)
	b.has(publicQ)
	w, v := a.dial(1, publicP), b.dial(2, publicQ)
	first, second := w.setUp(a, 7, 9), v.setUp(b, 7, 10)
	a.until("follows", a.knows(v, calls.Established))
	s.store.Restore(memory.Backup{})
	for _, m := range []*member{a, b} {
		m.until("is whole", func() bool {
			m.shrink()
			st := m.share.store.Status()
			return st.Reloads > 1 && st.Joined && !st.Degraded
		})
	}
	c := s.start("c", t.TempDir(), newClusterKernel())
	c.until("has all", func() bool { return len(c.Calls()) == 2 })
	if len(a.Calls()) != 2 || len(b.Calls()) != 2 {
		t.Errorf("%d and %d calls are left", len(a.Calls()), len(b.Calls()))
	}
	w.clears(a, 7, first)
	v.clears(b, 7, second)
}

// TestRepairWhileFollowing: the shared store is told what it lacks also while changes of others are being
// taken in, as they always are under load.
func TestRepairWhileFollowing(t *testing.T) {
	s, a, b := pair(t)
	b.has(publicQ)
	w, v := a.dial(1, publicP), b.dial(2, publicQ)
	w.setUp(a, 7, 9)
	s.store.Restore(memory.Backup{})
	for _, m := range []*member{a, b} {
		m.until("knows that the store has lost all", func() bool {
			st := m.share.store.Status()
			return st.Reloads > 1 && st.Joined && !st.Broken && st.Degraded
		})
	}
	a.lockHanded()
	defer a.order.Unlock()
	v.setUp(b, 7, 10)
	a.until("waits to take the change in", a.share.store.Occupied)
	r := a.beginRepair()
	if r == nil {
		t.Fatal("the store is not told what it lacks")
	}
	r.End(nil, func(netip.Addr) bool { return true }, time.Now())
}

// TestRepairWhileLeaving: a gateway that gives an address away, of which the store is not told yet, compares
// nothing below it: it follows the calls there already, and would take them for over.
func TestRepairWhileLeaving(t *testing.T) {
	s, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.has()
	b.has(publicP)
	b.until("owns the address", func() bool { return b.mine(publicP) })
	b.order.Lock()
	b.yield(publicP, "")
	b.order.Unlock()
	b.restoreShared()
	b.until("has written all", func() bool { return b.share.store.Status().Pending == 0 })
	v, _ := a.call(w)
	if it := s.store.Items()[state.CallKey{Public: publicP, Number: v.Number}.String()]; it.Value == nil {
		t.Error("the store has lost a call that lives")
	}
}

// TestManyAtOnce: gateways that set up and clear calls, read, audit, and exchange an address.
func TestManyAtOnce(t *testing.T) {
	_, a, b := pair(t)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, m := range []*member{a, b} {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				m.compare()
				m.Calls()
				_ = m.share.store.Status()
			}
		})
	}
	owner, other := a, b
	for n := range byte(20) {
		w := owner.dial(n, publicP)
		public := w.setUp(owner, 7, 100+pptp.CallID(n))
		owner.has()
		owner.until("has lost the address", func() bool { return !owner.mine(publicP) })
		other.kernel.set(w.Connection, 300)
		other.has(publicP)
		owner, other = other, owner
		w.clears(owner, 7, public)
		w.say(owner, calls.Responder, pptp.CallDisconnectNotify, 100+pptp.CallID(n), 0, 1)
	}
	close(done)
	readers.Wait()
	for _, m := range []*member{a, b} {
		m.until("has no calls left", func() bool { return len(m.Calls()) == 0 && m.kernel.count() == 0 })
	}
}

// TestHearsLate: the shared store is out of reach while another gateway has the address. When
// the address is back, so is what that gateway has done.
func TestHearsLate(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	first := w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.link.Set(memory.Faults{Err: memory.ErrDown})
	a.has()
	b.has(publicP)
	second := w.setUp(b, 8, 10)
	b.has()
	a.has(publicP)
	a.link.Set(memory.Faults{})
	a.until("owns it", func() bool { return a.mine(publicP) })
	w.clears(a, 8, second)
	w.clears(a, 7, first)
}

// TestMayTake: a gateway that knows less than others gets no address, unless it has one already, or
// nobody knows anything.
func TestMayTake(t *testing.T) {
	late, has := cluster.LongLag, []netip.Addr{publicP}
	for name, tt := range map[string]struct {
		st   cluster.Status
		want bool
	}{
		"well":               {cluster.Status{}, true},
		"a moment":           {cluster.Status{Lag: late - 1}, true},
		"lags":               {cluster.Status{Lag: late, Degraded: true}, false},
		"lags and owns":      {cluster.Status{Lag: late, Claims: has}, true},
		"no store":           {cluster.Status{Lag: late, Broken: true, Degraded: true}, true},
		"same name":          {cluster.Status{SameName: true}, false},
		"same name and owns": {cluster.Status{SameName: true, Claims: has}, true},
	} {
		if err := mayTake(tt.st); (err == nil) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMovesUnheard: an address moves before its new gateway has heard of any call.
func TestMovesUnheard(t *testing.T) {
	_, a, b := pair(t)
	b.link.Set(memory.Faults{Deaf: true})
	w := a.dial(1, publicP)
	a.dial(2, publicP).setUp(a, 7, 9) // has the ID that the next one asks for
	public := w.setUp(a, 7, 10)
	a.has()
	b.kernel.set(w.Connection, 300)
	b.has(publicP)
	heard := time.AfterFunc(50*time.Millisecond, func() { b.link.Set(memory.Faults{}) })
	defer heard.Stop()
	w.clears(b, 7, public)
}

// TestTermOfBefore: a gateway hears late that it owned an address once, and that another one has
// taken it since, when it has already taken it again. Neither says that its new term has begun, or
// ends it.
func TestTermOfBefore(t *testing.T) {
	_, a, b := pair(t)
	v := a.dial(2, publicP)
	a.link.Set(memory.Faults{Deaf: true})
	a.mu.Lock()
	a.acquire(publicP)
	a.mu.Unlock()
	owner := func() string { return b.share.store.Status().Owners[publicP].Owner.Name }
	b.until("knows that a has taken it", func() bool { return owner() == "a" })
	a.has()
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	b.kernel.set(v.Connection, 300)
	public := v.setUp(b, 8, 10)
	a.has(publicP)
	b.until("has lost it", func() bool { return !b.mine(publicP) && owner() == "a" })
	if a.mine(publicP) {
		t.Error("a owns it before it knows what b has done")
	}
	a.link.Set(memory.Faults{})
	v.clears(a, 8, public)
	a.until("has heard all", func() bool { return a.share.store.Status().Revision >= b.share.store.Status().Revision })
	if !a.mine(publicP) || b.mine(publicP) {
		t.Errorf("a owns it: %v, b: %v", a.mine(publicP), b.mine(publicP))
	}
}

// TestAssumesTooMuch: a gateway goes on with the calls of an address while the shared store is out of
// its reach. When it is back, what the former owner has done without this one's knowledge counts.
func TestAssumesTooMuch(t *testing.T) {
	s := newSite(t)
	a := s.start("a", t.TempDir(), newClusterKernel(publicP))
	s.wait = 100 * time.Millisecond
	b := s.start("b", t.TempDir(), newClusterKernel())
	w, v, u := a.dial(1, publicP), a.dial(2, publicP), a.dial(3, publicP)
	first, second := w.setUp(a, 7, 9), u.setUp(a, 7, 10)
	b.until("follows", b.knows(u, calls.Established))
	b.link.Set(memory.Faults{Err: memory.ErrDown})
	third := v.setUp(a, 7, 11)
	u.clears(a, 7, second)
	u.say(a, calls.Responder, pptp.CallDisconnectNotify, 10, 0, 1)
	a.until("has written all", func() bool { return a.share.store.Status().Pending == 0 })
	a.stop()
	b.has(publicP)
	w.say(b, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	if !b.mine(publicP) {
		t.Fatal("b has not assumed that it owns the address")
	}
	b.link.Set(memory.Faults{})
	b.until("knows all", func() bool { return b.knows(v, calls.Established)() && b.lacks(u)() && b.mine(publicP) })
	v.clears(b, 7, third)
	w.clears(b, 7, first)
}

// movedCall is call 7 of a client, 9 of its server, whose address has moved from a to b.
func movedCall(t *testing.T) (a, b *member, w *wire, public pptp.CallID) {
	_, a, b = pair(t)
	w = a.dial(1, publicP)
	public = w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.has()
	b.kernel.set(w.Connection, 300)
	b.has(publicP)
	return a, b, w, public
}

// TestEndsRightAfterTakeover: a call that ends with the first messages that pass its new gateway.
func TestEndsRightAfterTakeover(t *testing.T) {
	a, b, w, public := movedCall(t)
	if got := ownID(pptp.CallClearRequest, w.say(b, calls.Initiator, pptp.CallClearRequest, 7, 0, 0)); got != public {
		t.Errorf("the server is told to clear call %d, and has %d", got, public)
	}
	w.say(b, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
	w.say(b, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	w.say(b, calls.Responder, pptp.EchoReply, 0, 0, 1)
	b.until("has no call", b.lacks(w))
	a.until("has no call", a.lacks(w))
}

// TestEndsBetweenMoves: a call ends with a message that passes one gateway, and whose acknowledgement passes
// the next one.
func TestEndsBetweenMoves(t *testing.T) {
	a, b, w, _ := movedCall(t)
	w.say(b, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1) // the first that b sees of this stream
	if b.lacks(w)() {
		t.Fatal("b believes what nobody has acknowledged")
	}
	b.has()
	a.has(publicP)
	w.say(a, calls.Initiator, pptp.EchoRequest, 0, 0, 0) // acknowledges it
	a.until("has no call", a.lacks(w))
	b.until("has no call", b.lacks(w))
	a.until("has written all", func() bool { return a.share.store.Status().Pending == 0 })
}

// TestOfferedWhileRead: what the former owner tells late is taken in while its connection is read on: an
// ending that waits goes on waiting.
func TestOfferedWhileRead(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.link.Set(memory.Faults{Err: memory.ErrDown})
	second := w.setUp(a, 8, 10)
	a.has()
	b.kernel.set(w.Connection, 300)
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	w.say(b, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
	a.link.Set(memory.Faults{})
	b.until("is told", func() bool { return len(b.Calls()) == 2 })
	w.say(b, calls.Initiator, pptp.EchoRequest, 0, 0, 0)
	b.until("has one call", func() bool { u, _ := b.call(w); return len(b.Calls()) == 1 && u.PNS.Own == 8 })
	w.say(b, calls.Responder, pptp.EchoReply, 0, 0, 1)
	w.clears(b, 8, second)
}

// TestOffered: an address moves in order while the shared store does not answer the gateway that has
// it. What that one has set up before is known to the next one as soon as it does, and goes on.
func TestOffered(t *testing.T) {
	_, a, b := pair(t)
	w, v := a.dial(1, publicP), a.dial(2, publicP)
	first := w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.link.Set(memory.Faults{Err: memory.ErrDown})
	second := v.setUp(a, 7, 10)
	w.clears(a, 7, first)
	w.say(a, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
	third := w.setUp(a, 8, 11)
	a.has()
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	a.link.Set(memory.Faults{})
	b.until("is told", func() bool {
		u, there := b.call(w)
		return b.knows(v, calls.Established)() && there && u.PNS.Own == 8 && len(b.Calls()) == 2 && b.mine(publicP)
	})
	v.clears(b, 7, second)
	w.clears(b, 8, third)
	b.until("has cleared all", func() bool { return len(b.Calls()) == 0 })
	a.until("has cleared all", func() bool { return len(a.Calls()) == 0 })
	if e := b.kernel.entry(&v.Connection); e.Original != v.Original {
		t.Error("b's kernel does not have the connection")
	}
}

// TestOfferedReply: the shared store knows of a request, and its reply passes while it does not answer. The next
// gateway has the call as requested, until the former one tells it of the reply.
func TestOfferedReply(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	public := ownID(pptp.OutgoingCallRequest, w.say(a, calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0))
	b.until("follows", b.knows(w, calls.Requested))
	a.link.Set(memory.Faults{Err: memory.ErrDown})
	if got := peerID(pptp.OutgoingCallReply, w.say(a, calls.Responder, pptp.OutgoingCallReply, 9, public, 1)); got != 7 {
		t.Fatalf("the client is told of call %d", got)
	}
	a.has()
	b.kernel.set(w.Connection, 300)
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	b.mu.Lock()
	b.share.taken[publicP] = time.Now().Add(-2 * late)
	b.mu.Unlock()
	a.link.Set(memory.Faults{})
	b.until("is told", b.knows(w, calls.Established))
	if n := b.kernel.count(); n != 2 || len(b.Calls()) != 1 {
		t.Errorf("b has %d flows, and %v", n, b.Calls())
	}
	w.clears(b, 7, public)
	w.say(b, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
	a.until("has no call", a.lacks(w))
}

// TestOfferedTooLate: a call that was only requested when its address moved is of no use to the next gateway
// by the time that it is offered: nobody has it, and so the shared store does not keep it.
func TestOfferedTooLate(t *testing.T) {
	s, a, b := pair(t)
	w, v := a.dial(1, publicP), a.dial(2, publicP)
	v.setUp(a, 7, 9)
	b.until("follows", b.knows(v, calls.Established))
	before := s.store.Mark().Revision
	a.link.Set(memory.Faults{Err: memory.ErrDown})
	w.say(a, calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0)
	a.has()
	b.has(publicP)
	b.until("owns it", func() bool { return b.mine(publicP) })
	b.mu.Lock()
	b.share.taken[publicP] = time.Now().Add(-2 * late)
	b.mu.Unlock()
	a.link.Set(memory.Faults{})
	kept := func() (n int) {
		for key := range s.store.Items() {
			if strings.HasPrefix(key, state.CallSection) {
				n++
			}
		}
		return n
	}
	a.until("has nothing to offer", func() bool { return s.store.Mark().Revision > before+2 && kept() == 1 })
	if n := len(b.Calls()); n != 1 {
		t.Errorf("b has %d calls", n)
	}
	a.until("follows", a.lacks(w))
}

// TestOwnerKept: a gateway knows who has taken its address, also if it notices only then that the address has
// gone.
func TestOwnerKept(t *testing.T) {
	_, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	b.has(publicP)
	a.until("has lost it", func() bool { return !a.mine(publicP) })
	a.has()
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.share.others[publicP]; o.name != "b" {
		t.Errorf("the owner is %q", o.name)
	}
}

// TestComesUnnoticed: a packet comes to the gateway that has got the address just now, and does not know it
// yet. It does not pass unedited.
func TestComesUnnoticed(t *testing.T) {
	_, a, b := pair(t)
	w, v := a.dial(1, publicP), a.dial(2, publicP)
	v.setUp(a, 8, 8)
	public := w.setUp(a, 8, 9) // not 8: that is v's
	b.until("follows", b.knows(w, calls.Established))
	b.kernel.set(w.Connection, 300)
	b.readdress()
	b.kernel.locked(func() { b.kernel.addrs = []netip.Addr{publicP} })
	request := w.say(b, calls.Initiator, pptp.CallClearRequest, 8, 0, 0)
	for ; request == nil; time.Sleep(time.Millisecond) {
		request = w.say(b, calls.Initiator, pptp.CallClearRequest, 8, 0, 0)
	}
	if got := ownID(pptp.CallClearRequest, request); got != public {
		t.Errorf("the server is told to clear call %d, and has %d", got, public)
	}
}

// TestOrphansLater: a gateway has lost its journal, and reads the shared store only later. Calls that
// the store knows are not orphans; the others are taken up then.
func TestOrphansLater(t *testing.T) {
	s := newSite(t)
	a := s.start("a", t.TempDir(), newClusterKernel(publicP))
	w, v := a.dial(1, publicP), a.dial(2, publicP)
	w.setUp(a, 7, 9)
	a.link.Set(memory.Faults{Err: memory.ErrDown})
	v.setUp(a, 7, 10)
	a.stop()
	again := s.startWith("a", t.TempDir(), a.kernel, memory.Faults{Err: memory.ErrDown})
	if n := len(again.Calls()); n != 0 {
		t.Errorf("%d calls are taken up", n)
	}
	again.link.Set(memory.Faults{})
	again.until("is whole", again.share.isWhole)
	again.compare()
	if n := len(again.Calls()); n != 2 || again.orphans.count.Load() != 0 || again.kernel.count() != 4 {
		t.Errorf("%d calls, %d orphans, %d flows: %v", n, again.orphans.count.Load(), again.kernel.count(), again.Calls())
	}
}

// TestEndedMeanwhile: a call of another gateway has ended while a gateway had no daemon, so long ago that
// nobody knows of it. Its entries are no orphans of the next daemon: they would stand in the way of the call
// that gets its public ID.
func TestEndedMeanwhile(t *testing.T) {
	s, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	b.stop()
	b.kernel.locked(func() {
		for f := range maps.Clone(b.kernel.flows) {
			f.Key, f.NewKey = f.Key+100, f.NewKey+100
			b.kernel.flows[f] = true
		}
	})
	again := s.start("b", t.TempDir(), b.kernel)
	again.until("has what there is", func() bool { return again.knows(w, calls.Established)() && again.kernel.count() == 2 })
	if n := again.orphans.count.Load(); n != 0 || len(again.Calls()) != 1 {
		t.Errorf("%d orphans, %d calls", n, len(again.Calls()))
	}
}

// TestNewcomerLetsRest: the public IDs of calls that were over before a gateway came rest there too,
// also if the shared store has lost all its data meanwhile, and the call was another gateway's.
func TestNewcomerLetsRest(t *testing.T) {
	for name, lose := range map[string]bool{"the store has all": false, "the store loses all": true} {
		t.Run(name, func(t *testing.T) {
			s, a, b := pair(t)
			w, v := a.dial(1, publicP), a.dial(2, publicP)
			w.setUp(a, 7, 9)
			b.until("follows", b.knows(w, calls.Established))
			w.clears(a, 7, 7)
			w.say(a, calls.Responder, pptp.CallDisconnectNotify, 9, 0, 1)
			b.until("has seen the end", b.lacks(w))
			b.kernel.set(v.Connection, 300)
			b.has(publicP)
			v.setUp(b, 8, 10)
			v.clears(b, 8, 8)
			v.say(b, calls.Responder, pptp.CallDisconnectNotify, 10, 0, 1)
			b.until("has written all", func() bool { return b.share.store.Status().Pending == 0 })
			if lose {
				s.store.Restore(memory.Backup{})
				b.until("has written all again", func() bool {
					b.shrink()
					st := b.share.store.Status()
					return st.Reloads > 1 && st.Joined && !st.Degraded && st.Pending == 0
				})
			}
			c := s.start("c", t.TempDir(), newClusterKernel())
			b.stop()
			a.stop()
			u := c.dial(3, publicP)
			c.has(publicP)
			for _, own := range []pptp.CallID{7, 8} {
				if public := u.setUp(c, own, 10+own); public == own {
					t.Errorf("public ID %d is given out, which rests", public)
				}
			}
		})
	}
}

// TestOwnWritesAreNoOffers: a gateway that starts when the shared store has lost its data writes the calls
// that it has from a former owner. When it hears of that, it is not as if somebody offered them.
func TestOwnWritesAreNoOffers(t *testing.T) {
	s, a, b := pair(t)
	w := a.dial(1, publicP)
	public := w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.stop()
	b.has(publicP)
	v := b.dial(2, publicP)
	v.setUp(b, 7, 10)
	b.stop()
	s.store.Restore(memory.Backup{})
	again := s.start("b", b.dir, b.kernel)
	again.until("has written all", func() bool {
		again.shrink()
		st := again.share.store.Status()
		return !st.Degraded && st.Pending == 0 && st.Followed == 2 && st.Revision == st.Latest
	})
	again.until("has done its chores", again.idle)
	if n := testutil.ToFloat64(again.share.metrics.takeovers); n > 1 || !again.mine(publicP) {
		t.Errorf("the address was given up: it was taken %v times", n)
	}
	w.clears(again, 7, public)
}

// TestReplyBeforeOffer: the former owner has let a request go that it could not write. The new owner has
// the reply come again until it is told of the call.
func TestReplyBeforeOffer(t *testing.T) {
	_, a, b, w, v := impatient(t)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	a.link.Set(memory.Faults{Hang: true})
	public := ownID(pptp.OutgoingCallRequest, v.say(a, calls.Initiator, pptp.OutgoingCallRequest, 7, 0, 0))
	if public == 0 {
		t.Fatal("without the store no call is set up")
	}
	b.has(publicP)
	b.until("owns the address", func() bool { return b.mine(publicP) })
	b.mu.Lock()
	b.share.latest = time.Now().Add(time.Hour) // what it is told is not late, however long that takes
	b.share.taken[publicP] = b.share.latest
	b.mu.Unlock()
	if got := v.say(b, calls.Responder, pptp.OutgoingCallReply, 10, public, 1); got != nil {
		t.Errorf("a reply passes to a call that is not known yet: % x", got)
	}
	a.link.Set(memory.Faults{})
	a.has()
	b.until("is told", b.knows(v, calls.Requested))
	if got := peerID(pptp.OutgoingCallReply, v.say(b, calls.Responder, pptp.OutgoingCallReply, 10, public, 1)); got != 7 {
		t.Errorf("the client is told of call %d", got)
	}
	b.mu.Lock()
	b.share.taken[publicP] = time.Now().Add(-late)
	b.mu.Unlock()
	if got := v.say(b, calls.Responder, pptp.OutgoingCallReply, 11, 300, 1); got == nil {
		t.Error("a reply to nobody's call never passes")
	}
}

// TestRestReloaded: how long an ID rests is changed while the gateway runs. The other gateways can see it.
func TestRestReloaded(t *testing.T) {
	_, a, b := pair(t)
	cfg := a.cfg
	cfg.Table.Rest = time.Hour
	if err := a.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	b.until("sees it", func() bool {
		m := b.share.store.Status().Members[0]
		return m.Name == "a" && m.Rest == time.Hour
	})
	if st := a.share.store.Status(); st.Slot != 0 {
		t.Errorf("a has slot %d now", st.Slot)
	}
	w := a.dial(1, publicP)
	w.clears(a, 7, w.setUp(a, 7, 9))
}

// TestStartListsOnce: a gateway of a cluster, too, lists the kernel's table once when it starts, and when
// it reads the shared store only later. What comes meanwhile is not missed in that list.
func TestStartListsOnce(t *testing.T) {
	s, a, b := pair(t)
	w := a.dial(1, publicP)
	w.setUp(a, 7, 9)
	b.until("follows", b.knows(w, calls.Established))
	b.stop()
	b.kernel.lists = 0
	again := s.start("b", b.dir, b.kernel)
	if n := again.kernel.lists; n != 1 {
		t.Errorf("the table is listed %d times", n)
	}
	again.stop()
	b.kernel.lists = 0
	late := s.startWith("b", b.dir, b.kernel, memory.Faults{Err: memory.ErrDown})
	late.link.Set(memory.Faults{})
	late.until("is whole", late.share.isWhole)
	late.kernel.lists = 0
	late.adopt()
	v := a.dial(2, publicP)
	v.setUp(a, 7, 10)
	late.until("follows", late.knows(v, calls.Established))
	late.audit()
	if n, mended := late.kernel.lists, testutil.ToFloat64(late.metrics.repairs.WithLabelValues(repairRevived)); n != 1 || mended != 0 {
		t.Errorf("the table is listed %d times, and %v connections are made anew", n, mended)
	}
}

// TestSlotIsKept: gateways that start when the shared store has lost its data have the slots that they
// had, whoever comes first: their calls are numbered by them.
func TestSlotIsKept(t *testing.T) {
	s, a, b := pair(t)
	b.until("has written its slot down", func() bool { return lastSlot(a.dir, "a") == 0 && lastSlot(b.dir, "b") == 1 })
	a.stop()
	b.stop()
	s.store.Restore(memory.Backup{})
	for _, tt := range []struct {
		*member
		slot int
	}{{b, 1}, {a, 0}} {
		again := s.start(tt.name, tt.dir, tt.kernel)
		if got := again.share.store.Status().Slot; got != tt.slot {
			t.Errorf("%s has slot %d, and had %d", tt.name, got, tt.slot)
		}
		again.stop()
	}
	if got := s.start("c", b.dir, b.kernel).share.store.Status().Slot; got != 2 {
		t.Errorf("a gateway with another name has slot %d", got)
	}
}
