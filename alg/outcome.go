package alg

import (
	"fmt"

	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// Verdict is what is to become of a packet.
type Verdict uint8

// The verdicts.
const (
	Accept Verdict = iota // let go as it came
	Edited                // let go with the bytes that were edited in place
	Drop                  // not let go; TCP will send its bytes again

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
	Again                      // a retransmission: it got the bytes it got at first
	NoData                     // it carries no payload
	Untranslated               // NAT does not touch the connection
	Helped                     // the kernel's own helper edits the connection
	NotPPTP                    // the connection does not speak PPTP
	Over                       // the connection's end was seen
	NoConnection               // conntrack does not know the connection
	Gap                        // bytes before it are missing
	TooOld                     // a retransmission of bytes whose edits are forgotten

	// The reasons that the caller of the editor gives.

	Malformed // not a whole IPv4 TCP segment
	Truncated // the kernel did not hand over the whole packet
	Failed    // the editor failed on it, or the kernel could not be asked

	reasons
)

var reasonNames = [reasons]string{
	"read", "retransmission", "no_data", "untranslated", "kernel_helper", "not_pptp", "closed",
	"no_connection", "gap", "forgotten", "malformed", "truncated", "error",
}

func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("unknown(%d)", uint8(r))
}

// Anomaly is something in the control stream that an operator wants counted.
type Anomaly uint8

// The anomalies.
const (
	UnknownCall  Anomaly = iota // an ID that belongs to no known call passed unchanged
	NoPublicID                  // a call request passed unedited: no public ID was free
	BadMessage                  // a message of an unknown type or a wrong size passed unread
	Resynced                    // the boundaries of messages were lost and searched for
	NotPPTPFound                // a connection turned out not to speak PPTP

	anomalies
)

var anomalyNames = [anomalies]string{"unknown_call", "no_public_id", "bad_message", "resynced", "not_pptp"}

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

// Outcome is what the editor makes of one packet. Its slices are valid until the
// editor is used again.
type Outcome struct {
	Verdict   Verdict
	Reason    Reason
	Changes   []conntrack.Change // to be carried out in order, before the packet is let go
	Messages  []pptp.Type        // whose Call IDs and result were read to their end
	Anomalies []Anomaly
}
