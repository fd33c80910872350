package conntrack

import (
	"fmt"
	"net/netip"

	"pptpalg/alg/pptp"
)

// Flow is the translation of the GRE packets that travel one way in one call. A
// packet carries the Call ID of the endpoint it goes to, so a flow belongs to its
// receiver:
//
//	enters as   Src > Dst        key Key      (Dst, Key: the receiver's public forms)
//	leaves as   NewSrc > NewDst  key NewKey   (NewDst, NewKey: the receiver's own)
//
// NewSrc equals Src, and NewDst equals Dst, where that end is not translated.
type Flow struct {
	Src, Dst       netip.Addr
	Key            pptp.CallID
	NewSrc, NewDst netip.Addr
	NewKey         pptp.CallID
	Zone           uint16 // of the control connection
	Mark           uint32 // of the control connection
}

func (f Flow) String() string {
	return fmt.Sprintf("%v > %v key %v => %v > %v key %v", f.Src, f.Dst, f.Key, f.NewSrc, f.NewDst, f.NewKey)
}
