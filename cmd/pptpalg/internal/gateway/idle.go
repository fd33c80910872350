package gateway

import (
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/history"
)

// endIdle ends calls whose clients are gone without a word: no GRE and no control
// message for the set time, as it was when the audit began. Without accounting nothing is
// known of the GRE, and no call is ended.
func (g *Gateway) endIdle(c *alg.Audit, t *history.Tally, asked time.Time) {
	timeout := g.idleTimeout()
	if timeout == 0 {
		return
	}
	if t.Other > 0 {
		g.limits.sometimes("accounting", func() {
			g.log.Warn("idle calls cannot be ended: the kernel does not count their packets: set net.netfilter.nf_conntrack_acct to 1 before they are set up", "calls", t.Other)
		})
	}
	silent := func(r calls.Record) bool {
		moved := g.ledger.Moved(r)
		return !moved.IsZero() && asked.Sub(moved) >= timeout
	}
	g.sliced(func() bool {
		changes, more := c.EndIdle(slice, asked.Add(-timeout), silent, time.Now())
		g.note(changes)
		return more
	})
}

func (g *Gateway) idleTimeout() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.Idle
}
