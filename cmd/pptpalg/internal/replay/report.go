package replay

import (
	"fmt"
	"net/netip"

	"pptpalg/alg/pptp"
)

// Report is what a capture says.
type Report struct {
	Events []Event `json:"events"`
	Calls  []*Call `json:"calls"`
	Strays []Stray `json:"strays"`
	Totals Totals  `json:"totals"`
}

// Moment is when something was captured.
type Moment struct {
	Time   float64 `json:"time"`   // seconds since the first packet
	Packet int     `json:"packet"` // counted from 1
}

// Event is a control message, or something else that happened on a control
// connection.
type Event struct {
	Moment
	Src     netip.AddrPort `json:"src"`
	Dst     netip.AddrPort `json:"dst"`
	Message string         `json:"message,omitempty"` // its name in RFC 2637; "" for what is no message
	CallID  *ID            `json:"call_id,omitempty"`
	Peer    *ID            `json:"peers_call_id,omitempty"`
	Result  *Result        `json:"result,omitempty"`
	Note    string         `json:"note,omitempty"` // of what is no message
}

// ID is a Call ID in a message: as captured, and as it is outside the NAT.
type ID struct {
	Seen   pptp.CallID `json:"seen"`
	Public pptp.CallID `json:"public"`
}

func (id *ID) String() string {
	switch {
	case id == nil:
		return "-"
	case id.Seen != id.Public:
		return fmt.Sprintf("%v → %v", id.Seen, id.Public)
	}
	return id.Seen.String()
}

// Result is the result code of a message.
type Result struct {
	Code  byte   `json:"code"`
	Words string `json:"words"` // RFC 2637's, "" for a code that it does not define
}

func (r *Result) String() string {
	switch {
	case r == nil:
		return "-"
	case r.Words == "":
		return fmt.Sprintf("%d (not in RFC 2637)", r.Code)
	}
	return fmt.Sprintf("%d (%s)", r.Code, r.Words)
}

// Call is a call that a control connection requested.
type Call struct {
	Number  int     `json:"number"` // in the order of their requests, from 1
	Control Control `json:"control"`
	PNS     Party   `json:"pns"`
	PAC     Party   `json:"pac"`
	State   string  `json:"state"` // the furthest it was seen in: requested, answered, established
	Began   Moment  `json:"began"` // its request
	Ended   *End    `json:"ended"` // null for a call that lives when the capture ends
	ToPNS   Traffic `json:"to_pns"`
	ToPAC   Traffic `json:"to_pac"`
}

// Control is a control connection as captured: who opened it, and to whom.
type Control struct {
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
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
	Cause string `json:"cause"`        // as the daemon's metrics name it
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
	Packets   int `json:"packets"`    // in the capture
	Control   int `json:"control"`    // of control connections
	GRE       int `json:"gre"`        // PPTP's enhanced GRE
	Fragments int `json:"fragments"`  // of IP packets with TCP or GRE: not read
	Malformed int `json:"malformed"`  // TCP or GRE whose headers are not whole
	Other     int `json:"other"`      // everything else
	Cut       int `json:"cut"`        // of the first three: packets whose end was not captured
	Behind    int `json:"behind_gap"` // of control: segments not read because earlier ones are missing
	Written   int `json:"written"`    // packets in the file that was written
}
