package calls

import (
	"fmt"
	"net/netip"

	"pptpalg/alg/pptp"
)

// Flow is the translation of the GRE packets that travel one way in one call. If
// NAT touches neither end, the flow translates nothing, but the firewall knows its
// packets by it. A packet carries the Call ID of the endpoint it goes to, so a flow
// belongs to its receiver:
//
//	enters as   Src > Dst        key Key      (Dst, Key: the receiver's public address and ID)
//	leaves as   NewSrc > NewDst  key NewKey   (NewDst, NewKey: the receiver's own)
//
// NewSrc equals Src, and NewDst equals Dst, where that end is not translated.
type Flow struct {
	Src, Dst       netip.Addr
	Key            pptp.CallID
	NewSrc, NewDst netip.Addr
	NewKey         pptp.CallID
	Zone           uint16 // of its packets
	OneWay         bool   // the control connection is in Zone this way only
	Mark           uint32 // of the control connection
}

// Traffic is what has travelled in a flow.
type Traffic struct {
	Packets, Bytes uint64 // since the kernel's entry was made
	Counted        bool   // false where the kernel does not count: net.netfilter.nf_conntrack_acct is 0
	AtLeast        bool   // some packets are counted and some are not: if it does not grow, that tells nothing
	Lent           bool   // the flow has no entry of its own: another program's entry has the same packets and translates them alike
}

func (f Flow) String() string {
	return fmt.Sprintf("%v > %v key %v => %v > %v key %v", f.Src, f.Dst, f.Key, f.NewSrc, f.NewDst, f.NewKey)
}

// Unmarked returns the flow without its mark, which others may change in the
// kernel's entry, and without what does not concern its packets: what is left tells
// flows apart.
func (f Flow) Unmarked() Flow {
	f.Mark, f.OneWay = 0, false
	return f
}

// oneWay reports whether the packets of an end alone are in the zone.
func (c Connection) oneWay(sender Side) bool { return c.Way != BothWays && c.Way.holds(sender) }

// flow is the GRE that travels to one end, which knows the call by its own ID.
func (c Connection) flow(to Side, own, public pptp.CallID) Flow {
	y, x := c.Endpoint(to), c.Endpoint(to.Other())
	return Flow{
		Src: x.Address, Dst: y.Public, Key: public,
		NewSrc: x.Public, NewDst: y.Address, NewKey: own,
		Zone: c.ZoneOf(to.Other()), OneWay: c.oneWay(to.Other()), Mark: c.Mark,
	}
}

// Ways returns what has travelled to each end of a call, from what Unmarked flows have carried.
func (v *View) Ways(by map[Flow]Traffic) (toPNS, toPAC Traffic) {
	for _, f := range v.Flows {
		t := by[f.Unmarked()]
		// Either end may be the other's neighbour: the Call ID tells, where addresses do not.
		switch {
		case !t.Counted:
		case f.NewDst == v.PNS.Address && v.PNS.Known && f.NewKey == v.PNS.Own && !toPNS.Counted:
			toPNS = t
		default:
			toPAC = t
		}
	}
	return toPNS, toPAC
}
