package alg

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestLies has the ends of several connections send whatever they like, and strangers
// segments in their names. No limit is exceeded, the calls of a connection change through
// its own segments alone, every call that lives has its GRE translated, and nothing is
// left in the end.
func TestLies(t *testing.T) { rapid.Check(t, lie) }

// FuzzLies is TestLies for the fuzzer.
func FuzzLies(f *testing.F) { f.Fuzz(rapid.MakeFuzz(lie)) }

// drawn lets rapid's T stand in for testing's.
type drawn struct {
	testing.TB
	rt *rapid.T
}

func (d drawn) Helper()                   {}
func (d drawn) Fatal(args ...any)         { d.rt.Fatal(args...) }
func (d drawn) Fatalf(f string, a ...any) { d.rt.Fatalf(f, a...) }

// liars is a world of ends that keep to nothing.
type liars struct {
	*rig
	rt     *rapid.T
	cfg    calls.Config
	wires  []*wire
	kernel map[calls.Flow]calls.Flow
}

func lie(rt *rapid.T) {
	cfg := calls.Config{Rest: 20 * time.Second, Calls: 8, CallsPerClient: 3, CallsPerSpace: 5, Requests: 20}
	if rapid.Bool().Draw(rt, "random") {
		cfg.Random = rand.New(rand.NewPCG(1, 2)).Uint32
	}
	w := &liars{rig: &rig{t: drawn{rt: rt}, table: calls.New(cfg), now: epoch}, rt: rt, cfg: cfg, kernel: map[calls.Flow]calls.Flow{}}
	w.ed = NewEditor(w.table, mostConnections)
	w.wires = []*wire{
		w.masqueraded(insideAddr).handshake(), w.masqueraded(insideAddr).handshake(), w.masqueraded(insideHost(2)).handshake(),
		w.masqueraded(insideHost(3)), w.forwarded(serverAddr, insideHost(4)).handshake(), w.multihomed().handshake(),
	}
	for range rapid.IntRange(1, 60).Draw(rt, "steps") {
		w.step()
	}
	w.end()
}

// multihomed connects the first client by another public address.
func (w *liars) multihomed() *wire {
	return w.connect(calls.Connection{
		Original: tuple(insideAddr, 50000, serverAddr, 1723),
		Reply:    tuple(serverAddr, 1723, netip.MustParseAddr("198.51.100.2"), 50000),
	})
}

func (w *liars) step() {
	i := rapid.IntRange(0, len(w.wires)-1).Draw(w.rt, "connection")
	others := w.calls(i)
	l := w.wires[i]
	from := calls.Side(rapid.IntRange(0, 1).Draw(w.rt, "side"))
	switch rapid.SampledFrom([]string{"say", "say", "say", "say", "say", "open", "open", "cut", "forge", "again", "time", "syn", "entry", "restart"}).Draw(w.rt, "what") {
	case "say":
		w.say(l, from, w.message(), l.seq[from])
	case "open":
		w.opens(l)
	case "cut":
		b := w.message()
		n := rapid.IntRange(1, len(b)-1).Draw(w.rt, "at")
		w.say(l, from, b[:n], l.seq[from])
		if rapid.Bool().Draw(w.rt, "whole") {
			w.say(l, from, b[n:], l.seq[from])
		}
	case "forge":
		flags := rapid.SampledFrom([]packet.Flags{packet.RST, packet.FIN, packet.SYN, 0}).Draw(w.rt, "flags")
		w.segment(l, from, packet.ACK|flags, l.seq[from].Add(rapid.IntRange(-300, 300).Filter(func(n int) bool { return n != 0 }).Draw(w.rt, "off")), w.message())
	case "again":
		w.segment(l, from, packet.ACK, l.seq[from].Add(-rapid.IntRange(1, 200).Draw(w.rt, "back")), w.message())
	case "syn":
		w.segment(l, client, packet.SYN, l.seq[client].Add(1000), w.message())
	case "time":
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(w.rt, "seconds")) * time.Second)
		w.sweep(true)
	case "entry":
		w.entry(l)
	case "restart":
		w.restart()
	}
	if diff := cmp.Diff(others, w.calls(i), same); diff != "" {
		w.rt.Fatalf("calls of other connections have changed (-was +is):\n%s", diff)
	}
	w.check()
}

var same = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}

// calls returns the calls that live of all connections but one.
func (w *liars) calls(but int) (all [][]calls.View) {
	for i, l := range w.wires {
		if i != but {
			all = append(all, w.ed.CallsOf(l.conn.Original))
		}
	}
	return all
}

// message draws a control message, or something like it. IDs come from few, so that they
// meet those of others.
func (w *liars) message() []byte {
	id := rapid.Custom(func(t *rapid.T) pptp.CallID {
		return pptp.CallID(rapid.SampledFrom([]int{0, 1, 7, 8, 9, 0x0107, 0x0700, 0xff, 0xfe, 0xff00, 0x4000}).Draw(t, "id"))
	})
	typ := pptp.Type(rapid.IntRange(1, 16).Draw(w.rt, "type"))
	if typ > pptp.SetLinkInfo {
		return rapid.SliceOfN(rapid.Byte(), 2, 40).Draw(w.rt, "bytes")
	}
	b := message(typ, id.Draw(w.rt, "own"), id.Draw(w.rt, "peer"), rapid.SampledFrom([]byte{1, 1, 1, 2}).Draw(w.rt, "result"))
	if rapid.IntRange(0, 9).Draw(w.rt, "twice") == 0 {
		b = append(b, b...)
	}
	return b
}

// opens has both ends of a connection do what honest ones do.
func (w *liars) opens(l *wire) {
	own := pptp.CallID(rapid.IntRange(0, 9).Draw(w.rt, "own"))
	got := w.say(l, client, message(pptp.OutgoingCallRequest, own, 0, 0), l.seq[client])
	if len(got) < 14 {
		return
	}
	public, _ := ids(append(got, 0, 0))
	w.say(l, server, message(pptp.OutgoingCallReply, pptp.CallID(rapid.IntRange(0, 9).Draw(w.rt, "sid")), public, 1), l.seq[server])
}

func (w *liars) say(l *wire, from calls.Side, b []byte, at packet.Seq) []byte {
	got := w.segment(l, from, packet.ACK, at, b)
	if l.last.Verdict != Drop {
		l.seq[from] = l.seq[from].Add(len(b))
	}
	return got
}

func (w *liars) segment(l *wire, from calls.Side, flags packet.Flags, at packet.Seq, b []byte) []byte {
	seg, err := packet.Parse(tcp(l.t, w.tuple(l, from), flags, at, l.seq[from.Other()], b))
	if err != nil {
		w.rt.Fatal(err)
	}
	if w.ed.Asks(seg) {
		c := l.conn
		c.Opening = false
		w.ed.Open(c, w.now)
	}
	got := l.segment(from, flags, at, bytes.Clone(b))
	if len(got) != len(b) || l.last.Verdict != Edited && !bytes.Equal(got, b) {
		w.rt.Fatalf("% x became % x, %v", b, got, l.last.Verdict)
	}
	w.apply(l.last.Events)
	return got
}

func (w *liars) tuple(l *wire, from calls.Side) calls.Tuple {
	if from == server {
		return l.conn.Reply
	}
	return l.conn.Original
}

// sweep compares with a kernel that has all connections, or none.
func (w *liars) sweep(all bool) {
	var live []calls.Connection
	for _, l := range w.wires {
		if all {
			live = append(live, l.conn)
		}
	}
	w.apply(w.ed.Sweep(live, w.now.Add(time.Second), w.now))
}

// entry has conntrack say of a connection what liars can make it say, and what somebody can
// who deletes entries. While the editor reads the connection none of it ends a call, but for a
// RST on streams that are not placed, and the loss of an entry that nobody makes again.
func (w *liars) entry(l *wire) {
	entry := l.conn
	says := rapid.SampledFrom([]string{"closed", "reset", "gone", "translated in another way"}).Draw(w.rt, "conntrack says")
	d := w.dialogue(l)
	knows := d != nil && d.pass == Read && !(d.unseen && !d.control.Disputed())
	var live []calls.Connection
	for _, o := range w.wires {
		if o != l {
			live = append(live, o.conn)
		}
	}
	switch says {
	case "closed":
		entry.Closing = true
		live = append(live, entry)
	case "reset":
		entry.Closing, entry.Reset = true, true
		live = append(live, entry)
	case "translated in another way":
		entry.Zone = 9
		live = append(live, entry)
	}
	before := w.ed.CallsOf(l.conn.Original)
	w.now = w.now.Add(time.Second)
	c := w.ed.Compare(w.now)
	c.Found(live)
	stays := knows && (says == "closed" || says == "reset" && d.placed())
	lost, _ := c.Missing(len(w.wires), nobody, w.now)
	for i := range lost {
		switch rapid.SampledFrom([]string{"revived", "kept", "ended"}).Draw(w.rt, "fate") {
		case "revived":
			c.Revived(&lost[i])
			stays = true
		case "kept":
			c.Keep(&lost[i])
			stays = true
		}
	}
	changes, _ := c.Sweep(len(w.wires), w.now)
	w.apply(changes)
	switch after := w.ed.CallsOf(l.conn.Original); {
	case stays && !cmp.Equal(before, after, same):
		w.rt.Fatalf("conntrack says %s: of %v there are left %v", says, before, after)
	case !stays && len(after) > 0:
		w.rt.Fatalf("conntrack says %s: %v is left", says, after)
	}
}

func (w *liars) dialogue(l *wire) *dialogue {
	return w.ed.senders[keyOf(l.conn.Original.Src, l.conn.Original.Dst)].dialogue
}

// restart has another editor take up the calls.
func (w *liars) restart() {
	before := w.calls(-1)
	w.again(w.cfg, mostConnections)
	clear(w.kernel)
	w.apply(w.table.Events()) // which has them anew
	if diff := cmp.Diff(before, w.calls(-1), same); diff != "" {
		w.rt.Fatalf("calls have changed by a restart (-was +is):\n%s", diff)
	}
}

// mostConnections is fewer than there are.
const mostConnections = 5

func (w *liars) apply(changes []calls.Event) {
	for _, c := range changes {
		enters := calls.Flow{Src: c.Flow.Src, Dst: c.Flow.Dst, Key: c.Flow.Key}
		there, taken := w.kernel[enters]
		switch {
		case c.Kind == calls.Install && taken:
			w.rt.Fatalf("install %v where %v is", c.Flow, there)
		case c.Kind == calls.Install:
			w.kernel[enters] = c.Flow
		case c.Kind == calls.Remove && there != c.Flow:
			w.rt.Fatalf("remove %v where %v is", c.Flow, there)
		case c.Kind == calls.Remove:
			delete(w.kernel, enters)
		}
	}
}

// check holds the limits, and that the kernel translates for every call that lives.
func (w *liars) check() {
	total, ofClient := 0, map[netip.Addr]int{}
	public := map[calls.Flow]uint64{} // who has an ID of a translated end
	for _, l := range w.wires {
		for _, v := range w.ed.CallsOf(l.conn.Original) {
			total++
			ofClient[v.PNS.Address]++ // or the PAC's: who asked
			for _, p := range [][2]calls.Party{{v.PNS, v.PAC}, {v.PAC, v.PNS}} {
				w.own(public, v.Number, p[0], p[1])
			}
			for _, f := range v.Flows {
				if got, there := w.kernel[calls.Flow{Src: f.Src, Dst: f.Dst, Key: f.Key}]; !there || got.NewDst != f.NewDst || got.NewKey != f.NewKey {
					w.rt.Fatalf("%v of call %d is translated as %v", f, v.Number, got)
				}
			}
		}
	}
	if total != w.table.Calls() || total > w.cfg.Calls {
		w.rt.Fatalf("%d calls, the table says %d, and %d is the limit", total, w.table.Calls(), w.cfg.Calls)
	}
	for a, n := range ofClient {
		if n > 2*w.cfg.CallsPerClient {
			w.rt.Fatalf("%d calls of %v", n, a)
		}
	}
	if taken, _ := w.table.FullestSpace(); taken > w.cfg.CallsPerSpace {
		w.rt.Fatalf("%d public IDs are taken in a space", taken)
	}
	if len(w.ed.all) > mostConnections {
		w.rt.Fatalf("%d connections on record", len(w.ed.all))
	}
}

func (w *liars) own(public map[calls.Flow]uint64, number uint64, p, peer calls.Party) {
	if !p.Known || !p.Endpoint.Translated() {
		return
	}
	k := calls.Flow{Src: peer.Address, Dst: p.Endpoint.Public, Key: p.Public}
	if other, taken := public[k]; taken {
		w.rt.Fatalf("calls %d and %d have public ID %v", number, other, k.Key)
	}
	public[k] = number
}

// end lets all connections go.
func (w *liars) end() {
	w.now = w.now.Add(time.Hour)
	w.sweep(false)
	w.now = w.now.Add(time.Hour)
	w.sweep(false)
	if n := w.table.Calls() + len(w.kernel) + w.table.RestingIDs() + len(w.ed.all) + len(w.ed.origins); n != 0 {
		w.rt.Fatalf("in the end there are %d calls, %d flows, %d resting IDs, %d connections of %d clients", w.table.Calls(), len(w.kernel), w.table.RestingIDs(), len(w.ed.all), len(w.ed.origins))
	}
	if taken, _ := w.table.FullestSpace(); taken != 0 {
		w.rt.Fatalf("in the end %d public IDs are taken", taken)
	}
}
