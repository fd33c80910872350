package daemon

import (
	"net/netip"

	"pptpalg/alg"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// Over data path InDaemon calls have no entries in the kernel that would tell a control
// connection that has ended from one that somebody flushed (conntrack -F). So two entries are
// kept there that translate nothing, between addresses that are for documentation (RFC
// 5737). With a fixed timeout, they go only when somebody empties the kernel's table.
var (
	// canary lives as long as nobody does.
	canary = documentary(0xffff)
	// mourner lives while what is missing counts as flushed. A daemon that comes after a
	// crash goes on where the one before was.
	mourner = documentary(0xfffe)
)

func documentary(id pptp.CallID) conntrack.Flow {
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	return conntrack.Flow{Src: src, Dst: dst, Key: id, NewSrc: src, NewDst: dst, NewKey: id}
}

// mourning is for how many comparisons a canary's death explains that connections are
// missing. A flush takes its time: when the first has made another canary, connections may
// still be going.
const mourning = 2

// watch looks for the canary and, where it is gone, has another one made before anything is
// listed: whoever empties the table from then on kills that.
func (p *daemonPath) watch() error {
	alive, err := p.kernel.Has(canary)
	if err != nil {
		return err
	}
	known := p.watched
	p.watched = true
	switch {
	case !alive && !known && !p.heir:
		return p.change(conntrack.Install, canary) // nobody has kept one
	case !alive:
		p.mourns = mourning
		return p.change(conntrack.Install, mourner, canary)
	case p.mourns > 1:
		p.mourns--
	case p.mourns == 1:
		p.mourns = 0
		return p.change(conntrack.Remove, mourner)
	case !known:
		return p.resume()
	}
	return nil
}

// resume mourns as long as an earlier daemon had to, if it had.
func (p *daemonPath) resume() error {
	mourns, err := p.kernel.Has(mourner)
	if mourns {
		p.mourns = mourning
	}
	return err
}

func (p *daemonPath) change(kind conntrack.ChangeKind, all ...conntrack.Flow) error {
	changes := make([]conntrack.Change, len(all))
	for i, f := range all {
		changes[i] = conntrack.Change{Kind: kind, Flow: f}
	}
	for _, err := range p.kernel.Apply(changes) {
		return err
	}
	return nil
}

// flushed: without entries of their own, the calls cannot tell.
func (p *daemonPath) flushed(l alg.Lost, _ flows) bool { return len(l.Calls) > 0 && p.mourns > 0 }

// close takes the canary away. Where calls live it stays, for the daemon that takes them
// up.
func (p *daemonPath) close() error {
	if p.table.Len() > 0 {
		return nil
	}
	return p.change(conntrack.Remove, canary, mourner)
}
