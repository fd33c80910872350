package daemon

import "pptpalg/conntrack"

// tally adds up what the GRE entries of calls have counted. The sum does not fall when
// calls end, nor when entries are made again. It is owned by sweep.
type tally struct {
	seen map[uint64]volume // of calls by their number, at the last comparison; nil before the first
}

// volume is what the entries of a call have counted, both ways.
type volume struct{ packets, bytes uint64 }

// add takes in the entries that a comparison has found, and returns how much they have
// counted since the last one, and of how many calls they count. The first one only
// begins: what a call had carried by then, an earlier daemon has told.
//
// What a call carries after the last comparison before its end is not told.
func (t *tally) add(calls []conntrack.Record, have flows) (grown volume, counted int) {
	first := t.seen == nil
	seen := make(map[uint64]volume, len(t.seen))
	if have.counted() {
		for _, r := range calls {
			if v, ok := have.of(r); ok {
				seen[r.Number] = v
				grown.grow(t.seen[r.Number], v)
			}
		}
	}
	if t.seen = seen; first {
		grown = volume{}
	}
	return grown, len(seen)
}

// grow adds what lies between two counts of a call. A lower count is one of fewer
// entries: one of the two is gone, and is made again.
func (v *volume) grow(before, now volume) {
	if now.packets >= before.packets && now.bytes >= before.bytes {
		v.packets += now.packets - before.packets
		v.bytes += now.bytes - before.bytes
	}
}

// of returns what the entries of a call have counted, false if none counts.
func (f flows) of(r conntrack.Record) (v volume, counted bool) {
	for _, flow := range r.Flows() {
		t := f[flow.Unmarked()]
		v.packets += t.Packets
		v.bytes += t.Bytes
		counted = counted || t.Counted
	}
	return v, counted
}

// countTraffic is a comparison's step.
func (d *Daemon) countTraffic(calls []conntrack.Record, have flows) {
	grown, counted := d.tally.add(calls, have)
	d.metrics.grePackets.Add(float64(grown.packets))
	d.metrics.greBytes.Add(float64(grown.bytes))
	d.metrics.counted.Set(float64(counted))
}
