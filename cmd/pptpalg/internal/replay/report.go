package replay

import (
	"net/netip"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Report is what a capture says.
type Report struct {
	Events Events
	Calls  []*Call
	Strays []Stray
	Totals Totals
}

// Moment is when something was captured.
type Moment struct {
	Time   schema.Moment `json:"time"`   // seconds since the first packet
	Packet int           `json:"packet"` // counted from 1
}

// Call is a call that a control connection requested.
type Call struct {
	Number  int      `json:"number"` // in the order of their requests, from 1
	Control *Control `json:"control"`
	PNS     Party    `json:"pns"`
	PAC     Party    `json:"pac"`
	State   string   `json:"state"` // the furthest it was seen in: requested, answered, established
	Began   Moment   `json:"began"` // its request
	Ended   *End     `json:"ended"` // null for a call that lives when the capture ends
	ToPNS   Traffic  `json:"to_pns"`
	ToPAC   Traffic  `json:"to_pac"`
}

// Control is a control connection as captured: who opened it, and to whom.
type Control struct {
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
}

// end returns the address and port of an end.
func (c *Control) end(s calls.Side) netip.AddrPort {
	if s == calls.Initiator {
		return c.Src
	}
	return c.Dst
}

// Party is one end of a call. The public forms are those of outside the NAT; the
// Call IDs are null as long as the end has not answered.
type Party struct {
	Address       netip.Addr   `json:"address"`
	PublicAddress netip.Addr   `json:"public_address"`
	CallID        *pptp.CallID `json:"call_id"`
	PublicCallID  *pptp.CallID `json:"public_call_id"`
}

// End is the end of a call.
type End struct {
	Moment
	Cause string `json:"reason"`       // as the daemon's metrics name it
	Words string `json:"words"`        // what it means
	By    string `json:"by,omitempty"` // the address of who ended it, where one did
}

// Traffic is GRE that was seen.
type Traffic struct {
	Packets int `json:"packets"`
	Bytes   int `json:"bytes"` // of the IP packets, headers included
}

func (t *Traffic) add(size int) {
	t.Packets++
	t.Bytes += size
}

// Stray is GRE that belonged to no call when it was captured.
type Stray struct {
	Src    netip.Addr  `json:"src"`
	Dst    netip.Addr  `json:"dst"`
	CallID pptp.CallID `json:"call_id"`
	Traffic
	First Moment `json:"first"`
	Note  string `json:"note,omitempty"` // which call had the ID before or after
}

// Totals counts packets. Each of a capture is in one of the lines.
type Totals struct {
	Packets   int `json:"packets"`   // in the capture
	Control   int `json:"control"`   // of control connections
	GRE       int `json:"gre"`       // PPTP's enhanced GRE
	Fragments int `json:"fragments"` // of IP packets with TCP or GRE: not read
	Malformed int `json:"malformed"` // TCP or GRE whose headers are not whole
	Other     int `json:"other"`     // everything else
	// Kinds counts the packets of Other by what they are.
	Kinds   map[string]int `json:"kinds,omitempty"`
	Cut     int            `json:"cut"`        // of the first three: packets whose end was not captured
	Behind  int            `json:"behind_gap"` // of control: segments not read because earlier ones are missing
	Written int            `json:"written"`    // packets in the file that was written
}
