package daemon

import (
	"time"

	"pptpalg/alg"
	"pptpalg/conntrack"
)

// endIdle ends calls whose clients are gone without a word: no GRE and no control
// message for the set time. Without accounting nothing is known of the GRE, and no
// call is ended.
func (d *Daemon) endIdle(c *alg.Comparison, t *tally, now time.Time) {
	timeout := d.idleTimeout()
	if timeout == 0 {
		return
	}
	if t.other > 0 {
		d.limits.sometimes("accounting", func() {
			d.log.Warn("calls cannot be ended for being idle: the kernel does not count their packets: set net.netfilter.nf_conntrack_acct to 1 before they are set up", "calls", t.other)
		})
	}
	silent := func(r conntrack.Record) bool {
		was := d.sight.calls[r.Number]
		return was != nil && !was.moved.IsZero() && now.Sub(was.moved) >= timeout
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
