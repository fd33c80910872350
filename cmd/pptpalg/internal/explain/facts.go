package explain

import (
	"net/netip"
	"slices"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
)

// Facts are what is known of one client.
type Facts struct {
	Client netip.Addr // inside: who dials, or a server that is dialled
	Now    time.Time

	Events      []history.Event    // of the client, the oldest first
	Connections []calls.Connection // of the client, that the kernel's conntrack has, in no order
	Calls       []Call             // of the client, that live, the oldest first
	Older       []calls.Tuple      // original tuples of Connections that had no call when the daemon started
	Handshakes  Handshakes
	Refusals    []Refusal // of late, of all clients, the latest first
	Rules       Rules
	OverQueue   bool         // GRE visits the daemon, which counts it
	Follows     bool         // calls that NAT does not touch are followed
	Unmatched   uint64       // GRE packets of all clients that visited the daemon and were no call's
	Strays      []Stray      // GRE between the ends of Connections that the kernel has now and that is no call's
	TooBig      Dropped      // by this gateway, because they are larger than the MTU of the way that they should take, and must not be fragmented (DF)
	Astray      Dropped      // because they come by another interface than answers would take (rp_filter)
	Outside     Device       // the way to the other end of the client's call, or of what it dials
	Inside      Device       // the way to the client
	Homes       []netip.Addr // the addresses of the gateway's interfaces; nil where they are not known

	Many bool // it is one of many clients that are asked about: what may concern any of them is left out
}

// Handshakes are for how long conntrack keeps a TCP handshake after a packet, by the side whose packet is waited
// for: nf_conntrack_tcp_timeout_syn_sent and _syn_recv; 0 where that is not known.
type Handshakes struct{ Sent, Answered time.Duration }

// Dropped are packets that the gateway has not forwarded. The kernel does not tell whose they were.
type Dropped struct {
	Packets uint64    // since the daemon was started
	Last    time.Time // when the last one was noticed
}

// Device is an interface of the gateway; Name is "" for one that is not known.
type Device struct {
	Name string
	MTU  int
}

// Stray is GRE for a Call ID that no call has.
type Stray struct {
	From, To netip.Addr // as it comes: To is a public address where NAT hides the end
	CallID   pptp.CallID
	Traffic  calls.Traffic
	Shared   bool // other clients have control connections between the same ends: it may be for one of them
}

// Rules says whether the firewall rules are loaded that send control connections to the
// daemon.
type Rules uint8

// What may be known of the rules.
const (
	RulesUnknown Rules = iota
	RulesLoaded
	RulesMissing
)

// Call is a living call, with its GRE both ways.
type Call struct {
	calls.View
	ToClient, ToPeer Way // the peer is the end that is not Facts.Client
	Stuck            Stuck
}

// Stuck is a call that gets GRE from one end only.
type Stuck struct {
	ToClient bool      // it is the client that gets none; else the peer
	Since    time.Time // when GRE came last from there, or when the call was established; zero for a call that is not stuck
	Carried  bool      // it has carried both ways before
}

// Refusal is a TCP connection that a server refused.
type Refusal struct {
	Time   time.Time
	Server netip.AddrPort
	To     netip.AddrPort // as the server sees the client
}

// Way is the GRE that travels to one end of a call.
type Way struct {
	Present bool // the data path has its flow
	Traffic calls.Traffic
	TooBig  TooBig
}

// TooBig is what routers have said of packets that were larger than an MTU behind them, and must not be
// fragmented (DF): ICMP's "fragmentation needed". Not all of it is heard where it comes often.
type TooBig struct {
	Errors uint64
	Last   time.Time  // when the last one came
	Router netip.Addr // that sent it
	Size   int        // of the packet, in bytes, with the outer IP header
	MTU    int        // in bytes; 0 if the router does not tell
}

// Peer returns the other end of the client's latest call, of a handshake that does not end, or of
// the last connection; the zero Addr if there is none.
func (f *Facts) Peer() netip.Addr {
	if n := len(f.Calls); n > 0 {
		return f.peer(&f.Calls[n-1]).Address
	}
	for _, c := range f.Connections {
		if c.Opening && c.Original.Src.Addr() == f.Client {
			return c.Reply.Src.Addr()
		}
	}
	if n := len(f.Events); n > 0 && f.Events[n-1].Ends[calls.Initiator].Address.Addr() == f.Client {
		return f.Events[n-1].Ends[calls.Responder].Address.Addr()
	}
	return netip.Addr{}
}

// peer is the end that is not the client.
func (f *Facts) peer(c *Call) calls.Party {
	if c.PAC.Address == f.Client {
		return c.PNS
	}
	return c.PAC
}

// self is the client's end.
func (f *Facts) self(c *Call) calls.Party {
	if c.PAC.Address == f.Client {
		return c.PAC
	}
	return c.PNS
}

// outside reports whether the client is outside, and its server inside: only that one is hidden.
func (f *Facts) outside(c *Call) bool {
	return !f.self(c).Translated() && f.peer(c).Translated()
}

// asked returns when the last packet of a handshake passed, the zero Time if that is not known.
func (f *Facts) asked(c *calls.Connection) time.Time {
	kept := f.Handshakes.Sent
	if c.Answered {
		kept = f.Handshakes.Answered
	}
	if c.Left == 0 || c.Left > kept {
		return time.Time{}
	}
	return f.Now.Add(c.Left - kept)
}

// none reports whether it is known that nothing came.
func (w Way) none() bool { return w.Present && w.Traffic.Counted && w.Traffic.Packets == 0 }

// known reports whether something was seen of a connection.
func (f *Facts) known(c *calls.Connection) bool {
	ends := history.EndsOf(c)
	return slices.ContainsFunc(f.Events, func(e history.Event) bool { return e.Ends == ends })
}

// open reports whether the kernel has a connection with these ends that TCP has not ended.
func (f *Facts) open(ends [2]history.End) bool {
	return slices.ContainsFunc(f.Connections, func(c calls.Connection) bool { return !c.Closing && history.EndsOf(&c) == ends })
}

// last are the events of the client's latest control connection.
func (f *Facts) last() []history.Event {
	n := len(f.Events)
	if n == 0 {
		return nil
	}
	ends := f.Events[n-1].Ends
	var found []history.Event
	for _, e := range f.Events {
		if e.Ends != ends {
			continue
		}
		if e.Kind == history.ConnectionOpened {
			found = found[:0] // an earlier connection had the same ports
		}
		found = append(found, e)
	}
	return found
}
