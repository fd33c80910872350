package gateway

import (
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/history"
)

// volume is packets and their bytes, IP headers included.
type volume struct{ packets, bytes uint64 }

func (v *volume) add(w volume) {
	v.packets += w.packets
	v.bytes += w.bytes
}

// odometer adds up what has travelled to one end of a call. An entry that is made again
// counts from 0 again.
type odometer struct {
	now    calls.Traffic // of the entry that is there, as it was last read
	former volume        // of those before
	broken bool          // of which one may have counted more than was read
}

// read takes in what the entry has counted, and returns by how much that is more.
func (o *odometer) read(t calls.Traffic) volume {
	if !t.Counted {
		return volume{}
	}
	if t.Packets < o.now.Packets || t.Bytes < o.now.Bytes {
		o.lose()
	}
	grown := volume{t.Packets - o.now.Packets, t.Bytes - o.now.Bytes}
	o.now = t
	return grown
}

// lose takes note that the entry is gone, and nobody has read it.
func (o *odometer) lose() {
	if o.now.Counted {
		o.former.add(volume{o.now.Packets, o.now.Bytes})
		o.now, o.broken = calls.Traffic{}, true
	}
}

// total is what all entries have counted, as far as that was read.
func (o *odometer) total() calls.Traffic {
	return calls.Traffic{
		Packets: o.former.packets + o.now.Packets, Bytes: o.former.bytes + o.now.Bytes,
		Counted: o.now.Counted || o.former != volume{},
	}
}

// tally is what a comparison makes of the entries that it has found.
type tally struct {
	missing []calls.Flow // that calls need and the data path lacks
	grown   volume       // what calls have carried since the last comparison
	counted int          // calls whose packets are counted
	other   int          // calls whose packets are not
}

// glance is what the data path has of a call's two flows, by calls.Side.
type glance struct {
	traffic        [2]calls.Traffic
	there, lacking [2]bool
}

// tallyUp looks up the flows of all calls, each once. It holds mu only to take in what it
// has found.
func (g *Gateway) tallyUp(all []calls.Record, have flows, now time.Time) (t tally) {
	for some := range slices.Chunk(all, slice) {
		found := g.sweeper.glances[:0]
		for i := range some {
			found = append(found, t.look(&some[i], have))
		}
		g.sweeper.glances = found
		g.mu.Lock()
		for i := range some {
			was := g.sight.calls[some[i].Number]
			if was != nil && was.stage != history.CallClosed { // its end may have been told meanwhile, with later counts
				t.enter(was, &found[i], now)
			}
		}
		g.mu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t.grown.add(g.sight.last)
	g.sight.last = volume{}
	return t
}

// look finds a call's flows. A call that is being cleared needs none.
func (t *tally) look(r *calls.Record, have flows) (g glance) {
	if r.State == calls.Clearing {
		return g
	}
	for side := range g.there {
		f, needed := r.FlowTo(calls.Side(side))
		if !needed {
			continue
		}
		g.traffic[side], g.there[side] = have.at(f)
		if !g.there[side] {
			g.lacking[side] = true
			t.missing = append(t.missing, f)
		}
	}
	return g
}

func (f flows) at(flow calls.Flow) (calls.Traffic, bool) {
	t, there := f[flow.Unmarked()]
	return t, there
}

// enter takes in what was found of a call. Of one that an earlier daemon had, the first
// count only begins: that one has told of it.
func (t *tally) enter(was *seen, g *glance, now time.Time) {
	var grown volume
	counted := false
	for side := range was.ways {
		way := &was.ways[side]
		if g.lacking[side] {
			way.lose()
			way.broken = way.broken || !was.begun
		}
		grown.add(way.read(g.traffic[side]))
		counted = counted || g.traffic[side].Counted
	}
	if !counted {
		was.moved = time.Time{}
		t.other++
		return
	}
	t.counted++
	if was.moved.IsZero() || grown != (volume{}) {
		was.moved = now
	}
	if was.begun {
		t.grown.add(grown)
	}
	was.begun = true
}

// counted reports whether any flow's packets are counted.
func (f flows) counted() bool {
	for _, t := range f {
		if t.Counted {
			return true
		}
	}
	return false
}

// show has the metrics tell.
func (g *Gateway) show(t *tally) {
	g.metrics.grePackets.Add(float64(t.grown.packets))
	g.metrics.greBytes.Add(float64(t.grown.bytes))
	g.metrics.counted.Set(float64(t.counted))
}
