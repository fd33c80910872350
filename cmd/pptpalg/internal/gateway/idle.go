package gateway

import (
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
)

// endIdle ends calls whose clients are gone without a word: no GRE and no control
// message for the set time. Without accounting nothing is known of the GRE, and no
// call is ended.
func (g *Gateway) endIdle(c *alg.Comparison, t *tally, now time.Time) {
	timeout := g.idleTimeout()
	if timeout == 0 {
		return
	}
	if t.other > 0 {
		g.limits.sometimes("accounting", func() {
			g.log.Warn("calls cannot be ended for being idle: the kernel does not count their packets: set net.netfilter.nf_conntrack_acct to 1 before they are set up", "calls", t.other)
		})
	}
	silent := func(r calls.Record) bool {
		was := g.sight.calls[r.Number]
		return was != nil && !was.moved.IsZero() && now.Sub(was.moved) >= timeout
	}
	g.sliced(func() bool {
		changes, more := c.EndIdle(slice, now.Add(-timeout), silent, now)
		g.note(changes)
		return more
	})
}

func (g *Gateway) idleTimeout() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.Idle
}
