package history

import (
	"fmt"
	"net/netip"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
)

// Kind is what happened.
type Kind uint8

// The kinds of events.
const (
	ConnectionOpened Kind = iota // a control connection was seen first; Reason says whether it is edited
	MessageRead                  // a control message was read; Echo messages are left out
	CallRequested                // a call was requested
	CallTranslated               // both ends have given their Call IDs: GRE is translated both ways
	CallEstablished              // the last message that sets it up has passed
	CallClosed                   // a call ended, for Call.Cause
	AnomalySeen                  // an oddity, or a limit that was reached
	RulesLost                    // another program has removed or changed the firewall rules; it is of no connection
	RulesBack                    // the firewall rules are there again

	kinds
)

var kindNames = [kinds]string{
	"connection_opened", "message", "call_requested", "call_translated", "call_established", "call_closed", "anomaly", "rules_lost", "rules_back",
}

func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return fmt.Sprintf("unknown(%d)", uint8(k))
}

// Event is one thing that the daemon saw.
type Event struct {
	Seq  uint64 // events are numbered from 1 as the store takes them
	Time time.Time
	Kind Kind
	From calls.Side // of MessageRead and AnomalySeen: who sent the packet
	Ends [2]End     // of the control connection, by calls.Side

	Reason  alg.Reason  // of ConnectionOpened: alg.Read, or why it is ignored
	Message alg.Message // of MessageRead: Call IDs before and after editing
	Error   byte        // of MessageRead: the General Error Code of RFC 2637 section 2.16, 0 where unknown
	Anomaly alg.Anomaly // of AnomalySeen
	Call    Call        // of the kinds about calls
}

// End is one end of a control connection: the address it has, and the one under which
// the other end knows it.
type End struct{ Address, Public netip.AddrPort }

// Translated reports whether NAT hides the end's own address.
func (e End) Translated() bool { return e.Address.Addr() != e.Public.Addr() }

// EndsOf returns both ends of a connection, by calls.Side.
func EndsOf(c *calls.Connection) [2]End {
	return [2]End{
		calls.Initiator: {c.Original.Src, c.Reply.Dst},
		calls.Responder: {c.Reply.Src, c.Original.Dst},
	}
}

// Call is what an event says about its call.
type Call struct {
	Number  uint64 // see calls.View
	PNS     calls.Side
	Legs    [2]calls.LegRecord // by Side
	Since   time.Time          // of the request
	Cause   calls.Cause        // of CallClosed
	Traffic [2]calls.Traffic   // of CallClosed: the GRE that went to each Side, as far as it was counted

	// Of CallClosed: Traffic may be too low, because somebody deleted an entry that
	// counted, or because an earlier daemon did the counting.
	Approximate bool
}

// inside calls keep with each address under which an operator looks for the event: each
// end, except an end whose address NAT leaves while it hides the other's. Such an end is
// outside, and belongs to many clients.
func (e *Event) inside(keep func(netip.Addr)) {
	for s := range e.Ends {
		if e.Ends[s].Translated() || !e.Ends[s^1].Translated() {
			keep(e.Ends[s].Address.Addr())
		}
	}
}
