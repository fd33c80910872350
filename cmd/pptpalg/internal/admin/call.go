package admin

import (
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/meter"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Listed is a call in a list for programs.
type Listed struct {
	SchemaVersion schema.Version `json:"schema_version"`
	Call
}

// Call is a call as the commands and JSON show it.
type Call struct {
	Number  uint64      `json:"number"` // calls are numbered as the daemon sees them, over its restarts too
	PNS     Party       `json:"pns"`
	PAC     Party       `json:"pac"`
	State   string      `json:"state"` // requested, answered, established
	Since   schema.Time `json:"since"` // of the call's request
	Control Control     `json:"control"`
	// Of a gateway that shares its calls with others: which gateway edits the call's control
	// connection, and whether it is this one.
	Owner     string `json:"owner,omitempty"`
	OwnedHere bool   `json:"owned_here,omitempty"`

	ToPNS *Traffic `json:"to_pns"` // GRE that went to an end; null if nothing counts it
	ToPAC *Traffic `json:"to_pac"`

	Carries   string       `json:"carries"`              // both, one_way, silent or unknown: see package meter
	NoneTo    string       `json:"none_to,omitempty"`    // of one_way: the end that gets no GRE, "pns" or "pac"
	NoneSince *schema.Time `json:"none_since,omitempty"` // of one_way and silent: since when
}

// Traffic is GRE that went one way, bytes with IP headers. The kernel counts since its
// entry was last created.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Party is one end of a call. The public address and ID are what the other end sees. The
// Call IDs are null while the end has not answered.
type Party struct {
	Address       string       `json:"address"`
	PublicAddress string       `json:"public_address"`
	CallID        *pptp.CallID `json:"call_id"`
	PublicCallID  *pptp.CallID `json:"public_call_id"`
}

// Control is the call's control connection, as its initiator sees it: addresses with ports.
type Control struct {
	Src string `json:"src"`
	Dst string `json:"dst"`
}

// NewCall returns a call as it is shown, with what its flows have carried, and how.
func NewCall(v *calls.View, toPNS, toPAC *Traffic, how meter.Carriage) Call {
	c := Call{
		Number: v.Number,
		PNS:    newParty(v.PNS), PAC: newParty(v.PAC),
		State: v.State.String(), Since: schema.At(v.Since),
		Control: Control{Src: v.Control.Src.String(), Dst: v.Control.Dst.String()},
		ToPNS:   toPNS, ToPAC: toPAC, Carries: how.Kind.String(),
	}
	if how.Kind == meter.OneWay || how.Kind == meter.Silent {
		since := schema.At(how.Since)
		c.NoneSince = &since
	}
	if how.Kind == meter.OneWay {
		c.NoneTo = map[bool]string{true: "pns", false: "pac"}[how.ToPNS]
	}
	return c
}

// Carried returns what has travelled to each end of a call, from what unmarked flows have
// carried: nil if nothing counts it.
func Carried(v *calls.View, by map[calls.Flow]calls.Traffic) (toPNS, toPAC *Traffic) {
	pns, pac := v.Ways(by)
	return counted(pns), counted(pac)
}

func counted(t calls.Traffic) *Traffic {
	if !t.Counted {
		return nil
	}
	return &Traffic{t.Packets, t.Bytes}
}

// PerSecond returns the rate between two counts of one direction, taken so far apart. It is
// nil if one of them is not known, or if counting restarted between them.
func PerSecond(before, now *Traffic, apart time.Duration) *Traffic {
	seconds := apart.Seconds()
	if before == nil || now == nil || seconds <= 0 || now.Packets < before.Packets || now.Bytes < before.Bytes {
		return nil
	}
	return &Traffic{
		Packets: uint64(float64(now.Packets-before.Packets)/seconds + 0.5),
		Bytes:   uint64(float64(now.Bytes-before.Bytes)/seconds + 0.5),
	}
}

func newParty(p calls.Party) Party {
	shown := Party{Address: p.Address.String(), PublicAddress: p.Endpoint.Public.String()}
	if p.Known {
		shown.CallID, shown.PublicCallID = &p.Own, &p.Public
	}
	return shown
}
