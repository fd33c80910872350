package daemon

import (
	"time"

	"pptpalg/alg"
	"pptpalg/conntrack"
)

// idleness is since when a call's entries have counted no packet.
type idleness struct {
	packets uint64
	since   time.Time
}

// endIdle ends calls whose clients are gone without a word: no GRE and no control
// message for the set time. Without accounting nothing is known of the GRE, and no
// call is ended.
func (d *Daemon) endIdle(c *alg.Comparison, calls []conntrack.Record, have flows, now time.Time) {
	timeout := d.idleTimeout()
	if timeout == 0 {
		return
	}
	seen := make(map[uint64]idleness, len(d.idle))
	for _, r := range calls {
		if packets, counted := counts(r, have); counted {
			seen[r.Number] = d.idle[r.Number].after(packets, now)
		} else {
			d.limits.sometimes("accounting", func() {
				d.log.Warn("calls cannot be ended for being idle: the kernel does not count their packets: set net.netfilter.nf_conntrack_acct to 1 before they are set up")
			})
		}
	}
	d.idle = seen
	silent := func(r conntrack.Record) bool {
		s, counted := seen[r.Number]
		return counted && now.Sub(s.since) >= timeout
	}
	d.sliced(func() bool {
		changes, more := c.EndIdle(slice, now.Add(-timeout), silent, now)
		d.note(changes)
		return more
	})
}

func (d *Daemon) idleTimeout() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.Idle
}

// after returns the idleness when so many packets are counted.
func (i idleness) after(packets uint64, now time.Time) idleness {
	if i.since.IsZero() || packets != i.packets {
		return idleness{packets, now}
	}
	return i
}

// counts adds up what the entries of a call have counted.
func counts(r conntrack.Record, have flows) (packets uint64, counted bool) {
	for _, f := range r.Flows() {
		t := have[f.Unmarked()]
		packets += t.Packets
		counted = counted || t.Counted
	}
	return packets, counted
}
