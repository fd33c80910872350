package calls

import (
	"fmt"
	"net/netip"
	"time"
)

// Tuple is one direction of a TCP connection, as a packet of that direction
// carries it when it enters the gateway (mangle PREROUTING or OUTPUT).
type Tuple struct {
	Src, Dst netip.AddrPort
}

// Reversed returns the tuple with source and destination exchanged.
func (t Tuple) Reversed() Tuple { return Tuple{Src: t.Dst, Dst: t.Src} }

func (t Tuple) String() string { return fmt.Sprintf("%v > %v", t.Src, t.Dst) }

// Side names an end of a control connection by who opened TCP. It does not say which end is
// the PNS and which the PAC: each call's request does.
type Side uint8

// The two ends of a TCP connection.
const (
	Initiator Side = iota
	Responder
)

// Other returns the opposite end.
func (s Side) Other() Side { return s ^ 1 }

func (s Side) String() string {
	switch s {
	case Initiator:
		return "initiator"
	case Responder:
		return "responder"
	}
	return fmt.Sprintf("unknown(%d)", uint8(s))
}

// Connection is a TCP connection as the kernel's conntrack knows it. The reply
// tuple tells how it is translated: without NAT it is the original one reversed.
type Connection struct {
	Original, Reply Tuple
	Zone            uint16        // conntrack zone, 0 is the default zone
	Way             Way           // whose packets are in Zone
	Mark            uint32        // connmark
	Helper          string        // the kernel helper attached to it, "" for none
	Opening         bool          // TCP's handshake is under way: its conntrack state is SYN_SENT or SYN_RECV
	Answered        bool          // and its responder has answered: it is SYN_RECV
	Left            time.Duration // and conntrack keeps it for so long if no more packets pass; 0 where that is not known
	Closing         bool          // TCP has ended: its conntrack state is LAST_ACK, TIME_WAIT or CLOSE
	Reset           bool          // and it is CLOSE: conntrack has believed a RST
}

// Way says whose packets of a connection are in its zone. Those of the other end are in
// the default zone.
type Way uint8

// The ways.
const (
	BothWays      Way = iota // CT --zone
	FromInitiator            // the initiator's alone: CT --zone-orig
	FromResponder            // the responder's alone: CT --zone-reply

	ways // how many there are
)

// Valid reports whether it is one of the ways.
func (w Way) Valid() bool { return w < ways }

// holds reports whether the packets of an end are in the zone.
func (w Way) holds(sender Side) bool { return w == BothWays || w == FromInitiator+Way(sender) }

// ZoneOf returns the zone of the packets that an end sends.
func (c Connection) ZoneOf(sender Side) uint16 {
	if !c.Way.holds(sender) {
		return 0
	}
	return c.Zone
}

// Endpoint is one end of a connection: the address it has, and the address under
// which the other end knows it. They differ where NAT translates it.
type Endpoint struct {
	Address, Public netip.Addr
}

// Translated reports whether NAT hides the endpoint's own address.
func (e Endpoint) Translated() bool { return e.Address != e.Public }

// Endpoint returns one end of the connection.
func (c Connection) Endpoint(s Side) Endpoint {
	if s == Initiator {
		return Endpoint{Address: c.Original.Src.Addr(), Public: c.Reply.Dst.Addr()}
	}
	return Endpoint{Address: c.Reply.Src.Addr(), Public: c.Original.Dst.Addr()}
}

// Same reports whether both are translated alike between the same ends: one TCP
// connection, or two that follow each other.
func (c Connection) Same(o Connection) bool {
	return c.Original == o.Original && c.Reply == o.Reply && c.Zone == o.Zone && c.Way == o.Way
}

// Translated reports whether NAT translates either end's address.
func (c Connection) Translated() bool {
	return c.Endpoint(Initiator).Translated() || c.Endpoint(Responder).Translated()
}

// Public returns the address by which gateways that share their calls tell whose the
// connection is: that of the translated end; of two translated ends, the initiator's. false
// means that NAT touches neither: then the connection is nobody else's.
func (c Connection) Public() (netip.Addr, bool) {
	for _, s := range []Side{Initiator, Responder} {
		if e := c.Endpoint(s); e.Translated() {
			return e.Public, true
		}
	}
	return netip.Addr{}, false
}
