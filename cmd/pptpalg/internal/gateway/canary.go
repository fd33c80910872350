package gateway

import (
	"net/netip"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// Where the data path does not outlive the daemon, calls have no entries in the kernel. When the daemon is back after
// a crash, nothing would tell a control connection that ended meanwhile from one that
// somebody flushed (conntrack -F). So one entry is kept there that translates nothing, between
// addresses that are for documentation (RFC 5737). With a fixed timeout, it goes only when
// somebody empties the kernel's table.
var canary = calls.Flow{
	Src: documentary1, Dst: documentary2, Key: 0xffff,
	NewSrc: documentary1, NewDst: documentary2, NewKey: 0xffff,
}

var documentary1, documentary2 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")

// flushes tells, where flows are no entries, whether somebody has emptied the kernel's table. Owned
// by the reconciler.
type flushes struct {
	heir    bool // calls of an earlier daemon were taken up
	there   bool // the canary is there
	emptied bool // it was not when this audit began, and should have been
}

// watch looks for the canary before anything is listed.
func (g *Gateway) watch() (err error) {
	if g.outlives() {
		return nil
	}
	f := &g.flushes
	f.there, err = g.kernel.Has(canary)
	f.emptied = err == nil && !f.there && f.heir
	return err
}

// watched puts the canary back when what was flushed is revived, and not before: a daemon
// that comes after a crash in between still knows of the flush.
func (g *Gateway) watched() error {
	if g.outlives() || g.flushes.there {
		return nil
	}
	err := g.putCanary(calls.Install)
	g.flushes.there = err == nil
	return err
}

func (g *Gateway) putCanary(kind calls.EventKind) error {
	for _, err := range g.kernel.Apply([]calls.Event{{Kind: kind, Flow: canary}}) {
		return err
	}
	return nil
}

// flushed reports whether a control connection is missing in the kernel's table because
// somebody emptied that, and not because it ended. The entries of calls have a fixed timeout
// and go for no other reason.
func (g *Gateway) flushed(l *alg.Lost, have datapath.Flows) bool {
	if !g.outlives() {
		return g.flushes.emptied
	}
	needed := 0
	for _, c := range l.Calls {
		for _, f := range c.Flows() {
			if t, there := have.At(f); there && !t.Lent {
				return false
			}
			needed++
		}
	}
	return needed > 0
}

// takeCanary takes the canary away. Where calls live it stays, for the daemon that takes
// them up.
func (g *Gateway) takeCanary() error {
	if g.outlives() || g.table.Calls() > 0 {
		return nil
	}
	return g.putCanary(calls.Remove)
}
