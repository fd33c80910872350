package gre

import "fmt"

// Verdict is what happens to a packet. The zero value releases it unchanged.
type Verdict uint8

// The verdicts.
const (
	Pass   Verdict = iota // not of a flow; released unchanged
	Keep                  // of a flow, and already as it must leave
	Edited                // of a flow, released with the bytes that were edited in place

	verdicts
)

var verdictNames = [verdicts]string{"pass", "keep", "edited"}

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
	Rewritten Reason = iota // Edited: destination or Call ID changed
	Unchanged               // Keep: the flow's receiver is not translated
	Error                   // Edited or Keep: an ICMP error about a flow's packet
	NoFlow                  // enhanced GRE that belongs to no flow
	NotPPTP                 // neither PPTP's GRE nor an error about a flow's
	Fragment                // one of several fragments
	Malformed               // a length contradicts another, or the bytes there are

	reasons
)

var reasonNames = [reasons]string{"rewritten", "unchanged", "error", "no_flow", "not_pptp", "fragment", "malformed"}

// Reasons lists every reason.
func Reasons() []Reason {
	all := make([]Reason, reasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("unknown(%d)", uint8(r))
}

// Outcome is Enter's result for one packet.
type Outcome struct {
	Verdict Verdict
	Reason  Reason
	Mark    uint32 // of the packet's flow: the mark of its control connection
	Sourced bool   // the packet's source will be translated as it leaves
}
