package admin

import (
	"time"

	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// Call is a call as it is shown to people and programs.
type Call struct {
	PNS     Party     `json:"pns"`
	PAC     Party     `json:"pac"`
	State   string    `json:"state"` // requested, answered, established
	Since   time.Time `json:"since"` // of the call's request
	Control Control   `json:"control"`
}

// Party is one end of a call. The public forms are what the other end sees. The
// Call IDs are null while the end has not answered.
type Party struct {
	Address       string       `json:"address"`
	PublicAddress string       `json:"public_address"`
	CallID        *pptp.CallID `json:"call_id"`
	PublicCallID  *pptp.CallID `json:"public_call_id"`
}

// Control is the TCP connection that carries the call's control messages, as who
// opened it sees it: addresses with ports.
type Control struct {
	Src string `json:"src"`
	Dst string `json:"dst"`
}

func newCall(v conntrack.View) Call {
	return Call{
		PNS: newParty(v.PNS), PAC: newParty(v.PAC),
		State: v.State.String(), Since: v.Since.UTC(),
		Control: Control{Src: v.Control.Src.String(), Dst: v.Control.Dst.String()},
	}
}

func newParty(p conntrack.Party) Party {
	shown := Party{Address: p.Address.String(), PublicAddress: p.Endpoint.Public.String()}
	if p.Known {
		shown.CallID, shown.PublicCallID = &p.Own, &p.Public
	}
	return shown
}
