package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// The zones in which the reply tuples lie of flows whose own key is 0: see "Own key 0" in the
// package's documentation. There are two of them, since the kernel refuses an entry whose
// original tuple is another one's reply tuple in the zone of its own reply
// (nf_conntrack_find_get): the original tuple of a flow to Call ID 0 is the reply tuple of the
// flow that comes back.
const (
	zoneTranslated = 65002 // of flows whose destination is translated
	zoneOther      = 65003
)

// inner reports whether f is the inward one of a call's two flows, for those two must not
// share a zone: the one whose destination is translated. If NAT touches neither end, the
// addresses decide.
func inner(f calls.Flow) bool {
	return f.NewDst != f.Dst || natOf(f) == 0 && f.Dst.Less(f.Src)
}

// replyZone returns the zone of the reply tuple of f's entry alone, 0 if it has none.
func replyZone(f calls.Flow) uint16 {
	switch {
	case f.NewKey != 0 || f.Zone != 0:
		return 0
	case inner(f):
		return zoneTranslated
	}
	return zoneOther
}

// place puts the entry of a flow into the zones of its two tuples. A flow that is in its zone
// one way only has its reply tuple in the default zone, where the other way's packets are, and
// errors about its own. If its own key is 0, its zone hides the reply tuple.
func (e *entry) place(f calls.Flow) {
	if f.OneWay && f.NewKey != 0 {
		e.setZone(f.Zone, calls.FromInitiator)
		return
	}
	e.setZone(f.Zone, calls.BothWays)
	e.reply.zone = replyZone(f)
}

// apart puts the reply tuple where that of another flow, which leaves alike, is not.
func (e *entry) apart(f calls.Flow, taken int) {
	if f.Zone == 0 {
		e.reply.zone = spareZone(f, taken)
		return
	}
	e.setZone(f.Zone, calls.BothWays)
}

// The zones of reply tuples of flows that leave as another one does: see "Two flows that leave
// alike" in the package's documentation. As above, inner flows have zones of
// their own, the odd ones.
const (
	zoneSpare  = 64000
	zonesSpare = 500 // of either kind
)

// spareZone returns the zone of a flow's reply tuple if so many zones are taken.
func spareZone(f calls.Flow, taken int) uint16 {
	a := f.Src.As4()
	h := uint32(f.Key)
	for _, b := range a {
		h = h*31 + uint32(b)
	}
	z := zoneSpare + 2*uint16((h+uint32(taken))%zonesSpare)
	if inner(f) {
		z++
	}
	return z
}

// replyZoneOf reports whether the reply tuple of an entry of f may lie in a zone.
func replyZoneOf(f calls.Flow, zone uint16) bool {
	spare := zone >= zoneSpare && zone < zoneSpare+2*zonesSpare && (zone%2 == 1) == inner(f)
	return zone == 0 || zone == replyZone(f) || spare && f.Zone == 0
}

// entryOf returns the entry of a flow as this kernel accepts it.
func (c *Conn) entryOf(f calls.Flow) entry {
	e := flowEntry(f)
	if c.noZones {
		e.reply.zone = 0
	}
	return e
}

// outdated reports whether an entry is as earlier releases created it for a flow whose own
// key is 0: its reply tuple is in the zone of packets.
func (e *entry) outdated() bool {
	if e.reply.zone != 0 || e.reply.Src.Port() != 0 {
		return false // nearly all
	}
	f, ours := e.flow()
	return ours && replyZone(f) != 0
}

// Renew replaces the entries of an earlier release that would have another shape today, if
// mine reports true for their flows. It returns their number. It walks the whole table
// once, unless the last Traffic has met no such entry.
func (c *Conn) Renew(mine func(calls.Flow) bool) (renewed int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noZones || c.current {
		return 0, nil
	}
	old, err := list(c, byProto(unix.IPPROTO_GRE), func(e *entry) (entry, bool) { return *e, e.outdated() })
	for _, e := range old {
		if f, _ := e.flow(); mine(f) {
			err = errors.Join(err, c.replace(e, f))
			renewed++
		}
	}
	if err != nil {
		return renewed, fmt.Errorf("renew GRE entries: %w", err)
	}
	return renewed, nil
}

// replace replaces the entry of a flow. One datagram deletes it and creates its successor.
// A packet that comes between the two is handled as in Create.
func (c *Conn) replace(old entry, f calls.Flow) error {
	c.out.reset()
	c.out.add(deleteRequest(old.orig, f.Zone, old.id))
	c.out.add(createRequest(c.entryOf(f)))
	if err := c.send(nil)[1]; err != nil {
		return c.create(f, nil)
	}
	return nil
}

// lent returns flows that an entry translates beside its own, if it has both keys 0 and
// packets match both of its directions: the kernel created it for other packets, perhaps of
// a tunnel, and they were answered; or it is the entry of a flow whose reply tuple lies in
// the zone of packets. A flow to Call ID 0 has the same tuple, and needs no entry of its
// own if this one translates alike.
func (e *entry) lent() []calls.Flow {
	if e.orig.proto != unix.IPPROTO_GRE || e.status&statusSeenReply == 0 || e.helper != "" || e.orig.zone|e.reply.zone != 0 ||
		e.orig.Src.Port()|e.reply.Src.Port()|e.reply.Dst.Port() != 0 {
		return nil
	}
	back := translation(e.reply, e.orig, e.both)
	if _, ours := e.flow(); ours {
		return []calls.Flow{back}
	}
	if e.orig.Dst.Port() != 0 {
		return nil
	}
	return []calls.Flow{back, translation(e.orig, e.reply, e.both)}
}

// translation returns the translation of packets of key 0 that have one tuple of an entry,
// given the other tuple.
func translation(from, to tuple, zone uint16) calls.Flow {
	return calls.Flow{
		Src: from.Src.Addr(), Dst: from.Dst.Addr(),
		NewSrc: to.Dst.Addr(), NewDst: to.Src.Addr(), Zone: zone,
	}
}

// lends reports whether f needs no entry of its own because of this one.
func (e *entry) lends(f calls.Flow) bool {
	for _, lent := range e.lent() {
		if lent == f.Unmarked() {
			return true
		}
	}
	return false
}
