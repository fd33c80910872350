package alg

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// TestConversations is the editor's promise to honest peers. On two connections that
// share public IDs the ends ask for calls, answer, and end them as they like, while
// both directions are under way at once and the network loses, repeats, delays and
// cuts segments as it likes. Each end is told of its calls by the IDs that it gave
// them, and knows each of the other's by one ID of its own; each byte that is sent
// again is what it was at first; and the GRE of a call finds its way from the moment
// that its receiver may send some.
//
// endpoint_test.go has the ends, network_test.go what lies between them.
func TestConversations(t *testing.T) {
	for name, connect := range map[string]func(r *rig, i int) *wire{
		"clients inside": func(r *rig, i int) *wire { return r.masqueraded(insideHost(10 + i)) },
		"servers inside": func(r *rig, i int) *wire { return r.forwarded(serverAddr, insideHost(20+i)) },
		"hairpin, two clients": func(r *rig, i int) *wire {
			return r.hairpinned(insideHost(10+i), insideHost(20))
		},
		"hairpin, two servers": func(r *rig, i int) *wire {
			return r.hairpinned(insideHost(10), insideHost(20+i))
		},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				w := newWorld(t, rt, connect)
				for range rapid.IntRange(10, 200).Draw(rt, "steps") {
					w.step()
				}
				w.finish()
			})
		})
	}
}

func insideHost(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

// hairpinned connects an inside client to an inside server, each of which sees the
// gateway in place of the other.
func (r *rig) hairpinned(client, server netip.Addr) *wire {
	r.wires++
	port := uint16(40000 + r.wires)
	return r.connect(calls.Connection{
		Original: tuple(client, port, netip.MustParseAddr("198.51.100.2"), 1723),
		Reply:    tuple(server, 1723, gatewayAddr, port),
	})
}

// world is all that a run of the property has.
type world struct {
	*rig
	rt      *rapid.T
	connect func(r *rig, i int) *wire
	crowded bool // few public IDs are free that begin like an end's own
	talks   []*talk
	lines   []*line
	kernel  kernel
	numbers map[tag]*talk // by what the receiver of an ID can tell calls apart
	calls   pptp.CallID   // IDs that ends which are not translated have given
}

// tag is what tells a call of a translated end from the others that its peer has.
type tag struct {
	peer, public netip.Addr
	id           pptp.CallID
}

func newWorld(t *testing.T, rt *rapid.T, connect func(r *rig, i int) *wire) *world {
	w := &world{rig: newRig(t), rt: rt, connect: connect, numbers: map[tag]*talk{}, kernel: newKernel(rt), calls: 0x4000}
	w.crowded = rapid.Bool().Draw(rt, "crowded")
	for i := range 2 {
		l := newLine(w, connect(w.rig, i).handshake())
		w.lines = append(w.lines, l)
		for _, s := range []calls.Side{client, server} {
			if w.crowded && l.conn.Endpoint(s).Translated() {
				w.crowd(l.conn, s)
			}
		}
	}
	return w
}

// crowd takes most public IDs of an end that begin like one of its own, so that
// translations begin otherwise.
func (w *world) crowd(c calls.Connection, s calls.Side) {
	for _, high := range []pptp.CallID{0, 1, 7} {
		for low := range pptp.CallID(254) {
			w.table.Rest(calls.Resting{
				Public: c.Endpoint(s).Public, Peer: c.Endpoint(s.Other()).Address,
				ID: high<<8 | low, Until: w.now.Add(calls.DefaultConfig().Rest),
			}, w.now)
		}
	}
}

// step lets one thing happen on one connection.
func (w *world) step() {
	l := rapid.SampledFrom(w.lines).Draw(w.rt, "line")
	from := rapid.SampledFrom([]calls.Side{client, server}).Draw(w.rt, "side")
	switch rapid.SampledFrom([]string{"speak", "send", "send", "send again", "skip", "arrive", "arrive"}).Draw(w.rt, "step") {
	case "speak":
		l.speak(from)
	case "send":
		l.sendNew(from)
	case "send again":
		l.sendAgain(from)
	case "skip":
		l.skip(from)
	case "arrive":
		l.arrive(from)
	}
}

// finish has all arrive that was said, sends all of it once more, and ends the
// connections.
func (w *world) finish() {
	for _, l := range w.lines {
		l.settle(client)
		l.settle(server)
	}
	for _, l := range w.lines {
		l.send(client, 0, len(l.ways[client].said))
		l.send(server, 0, len(l.ways[server].said))
		for _, from := range []calls.Side{client, server} {
			l.segment(from, packet.FIN|packet.ACK, l.at(from, len(l.ways[from].said)), nil)
			w.kernel.apply(l.last.Events)
		}
		for _, a := range l.anomalies() {
			if a != UnknownCall {
				w.rt.Fatalf("anomaly %v", a)
			}
		}
	}
	w.leaves()
}

// leaves checks that nothing is left behind, a while after all was over.
func (w *world) leaves() {
	if n := w.table.Calls(); n != 0 || len(w.kernel.in)+len(w.kernel.out) != 0 {
		w.rt.Fatalf("%d calls, flows %v and %v are left", n, w.kernel.in, w.kernel.out)
	}
	w.now = w.now.Add(time.Hour)
	w.ed.Sweep(nil, w.now, w.now)
	for i := range w.lines {
		again := w.connect(w.rig, i).handshake()
		for _, s := range []calls.Side{client, server} {
			id, _ := ids(again.say(s, message(pptp.OutgoingCallRequest, 0, 0, 0)))
			if want := pptp.CallID(255 - i); again.conn.Endpoint(s).Translated() && id != want && id != 255 {
				w.rt.Fatalf("the highest free ID is %v, want %v", id, want)
			}
		}
	}
}

// kernel is a model of the kernel's table, in which neither a flow's way in nor its
// way out may be taken.
type kernel struct {
	rt      *rapid.T
	in, out map[calls.Flow]calls.Flow
}

func newKernel(rt *rapid.T) kernel {
	return kernel{rt, map[calls.Flow]calls.Flow{}, map[calls.Flow]calls.Flow{}}
}

func enters(f calls.Flow) calls.Flow {
	return calls.Flow{Src: f.Src, Dst: f.Dst, Key: f.Key}
}

func leaves(f calls.Flow) calls.Flow {
	return calls.Flow{NewSrc: f.NewSrc, NewDst: f.NewDst, NewKey: f.NewKey}
}

func (k kernel) apply(changes []calls.Event) {
	for _, c := range changes {
		switch c.Kind {
		case calls.Install:
			for _, taken := range []calls.Flow{k.in[enters(c.Flow)], k.out[leaves(c.Flow)]} {
				if taken != (calls.Flow{}) && taken != c.Flow {
					k.rt.Fatalf("install %v, where %v is", c.Flow, taken)
				}
			}
			k.in[enters(c.Flow)], k.out[leaves(c.Flow)] = c.Flow, c.Flow
		case calls.Remove:
			if k.in[enters(c.Flow)] != c.Flow {
				k.rt.Fatalf("remove %v, which is not there", c.Flow)
			}
			delete(k.in, enters(c.Flow))
			delete(k.out, leaves(c.Flow))
		}
	}
}
