package gateway

import (
	"net/netip"

	"pptpalg/alg"
	"pptpalg/alg/calls"
)

// Over data path Queue calls have no entries in the kernel. When the daemon is back after
// a crash, nothing would tell a control connection that ended meanwhile from one that
// somebody flushed (conntrack -F). So one entry is kept there that translates nothing, between
// addresses that are for documentation (RFC 5737). With a fixed timeout, it goes only when
// somebody empties the kernel's table.
var canary = calls.Flow{
	Src: documentary1, Dst: documentary2, Key: 0xffff,
	NewSrc: documentary1, NewDst: documentary2, NewKey: 0xffff,
}

var documentary1, documentary2 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")

// watch looks for the canary before anything is listed.
func (p *daemonPath) watch() (err error) {
	p.there, err = p.kernel.Has(canary)
	p.emptied = err == nil && !p.there && (p.kept || p.heir)
	return err
}

// watched puts the canary back when what was flushed is revived, and not before: a daemon
// that comes after a crash in between still knows of the flush.
func (p *daemonPath) watched() error {
	if p.kept = true; p.there {
		return nil
	}
	return p.change(calls.Install)
}

func (p *daemonPath) change(kind calls.ChangeKind) error {
	for _, err := range p.kernel.Apply([]calls.Change{{Kind: kind, Flow: canary}}) {
		return err
	}
	return nil
}

// flushed: without entries of their own, the calls cannot tell.
func (p *daemonPath) flushed(*alg.Lost, flows) bool { return p.emptied }

// close takes the canary away. Where calls live it stays, for the daemon that takes them
// up.
func (p *daemonPath) close() error {
	if p.table.Len() > 0 {
		return nil
	}
	return p.change(calls.Remove)
}
