package alg

import (
	"fmt"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// Verdict is what the kernel does with a packet.
type Verdict uint8

// The verdicts.
const (
	Accept Verdict = iota // released unchanged
	Edited                // released with the bytes that were edited in place
	Drop                  // not released; TCP will send its bytes again

	verdicts
)

var verdictNames = [verdicts]string{"accept", "edited", "drop"}

func (v Verdict) String() string {
	if v < verdicts {
		return verdictNames[v]
	}
	return fmt.Sprintf("unknown(%d)", uint8(v))
}

// Reason is why a packet got its verdict: log text and metric label at once.
type Reason uint8

// The reasons.
const (
	Read         Reason = iota // its messages were read, whether or not an ID changed
	Again                      // a retransmission: it got the same edits as at first
	NoData                     // it carries no payload
	Untranslated               // NAT does not touch the connection
	Helped                     // the kernel's own helper edits the connection
	NotPPTP                    // the connection does not speak PPTP
	Over                       // the connection's end was seen
	Deserted                   // the connection's calls ended because it was lost: see Outcome.Reset
	NoConnection               // conntrack does not know the connection, or too many are on record
	Gap                        // bytes before it are missing
	Unread                     // bytes before it passed while no daemon was running
	TooOld                     // a retransmission of bytes whose edits are forgotten
	Elsewhere                  // another gateway edits the connection: see Editor.Owned
	Multipath                  // the Multipath TCP option was removed: see Editor.onePath

	// The reasons that the caller of the editor gives.

	Malformed // not a whole IPv4 TCP segment
	Truncated // the kernel did not hand over the whole packet
	Failed    // the editor failed on it, or the kernel could not be asked

	reasons
)

var reasonNames = [reasons]string{
	"read", "retransmission", "no_data", "untranslated", "kernel_helper", "not_pptp", "closed", "lost",
	"no_connection", "gap", "unread", "forgotten", "elsewhere", "multipath", "malformed", "truncated", "error",
}

func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("unknown(%d)", uint8(r))
}

// Anomaly is something in a stream that an operator wants counted.
type Anomaly uint8

// The anomalies.
const (
	UnknownCall  Anomaly = iota // an ID that belongs to no known call passed unchanged
	BadMessage                  // a message of an unknown type or a wrong size passed unread
	Resynced                    // the boundaries of messages were lost and searched for
	NotPPTPFound                // a connection turned out not to speak PPTP
	EarlyRequest                // a call was requested before the Start exchange had ended

	// Why a call request, or the answer to one, passed unedited.

	NoPublicID  // no public ID is free
	IDTaken     // the gateway's own end chose an ID that is in use
	LimitCalls  // too many calls
	LimitClient // too many of one client
	LimitSpace  // too many of one public address towards one peer
	LimitRate   // too many requests of one client in a short time

	anomalies
)

var anomalyNames = [anomalies]string{
	"unknown_call", "bad_message", "resynced", "not_pptp", "early_request",
	"no_public_id", "id_taken", "limit_calls", "limit_client", "limit_space", "limit_rate",
}

// refusals maps the call table's refusals to anomalies.
var refusals = map[calls.Refusal]Anomaly{
	calls.SpaceFull:       NoPublicID,
	calls.IDTaken:         IDTaken,
	calls.TooManyCalls:    LimitCalls,
	calls.TooManyOfClient: LimitClient,
	calls.TooManyOfSpace:  LimitSpace,
	calls.TooFast:         LimitRate,
}

// Anomalies lists every anomaly.
func Anomalies() []Anomaly {
	all := make([]Anomaly, anomalies)
	for i := range all {
		all[i] = Anomaly(i)
	}
	return all
}

func (a Anomaly) String() string {
	if a < anomalies {
		return anomalyNames[a]
	}
	return fmt.Sprintf("unknown(%d)", uint8(a))
}

// Message is a control message that was read. Its type's Layout tells which fields it has;
// the others are zero.
type Message struct {
	Type      pptp.Type
	Own, Peer Translation
	Result    byte
	Missing   int // bytes at the end of its type's Prefix that a capture lacks
}

// Translation is a Call ID before and after editing.
type Translation struct{ From, To pptp.CallID }

// Outcome is the editor's result for one packet. Its slices are valid until the editor is
// used again.
type Outcome struct {
	Verdict   Verdict
	Reason    Reason
	Leave     bool          // the editor needs no later segment of the connection: see "Ignored connections"
	Reset     bool          // answer the sender with a RST: see Editor.ResetLost
	Events    []calls.Event // flows are to be translated before the packet is released
	Messages  []Message     // those whose Call IDs and result were read completely
	Anomalies []Anomaly
	Missing   int // bytes of a capture's segment that it lacks, and in which a message may have begun
}
