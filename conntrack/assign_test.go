package conntrack

import (
	"testing"

	"pptpalg/alg/pptp"
)

// TestCrowdedFirstByte: where nearly all public IDs that begin like an endpoint's own
// are in use, its calls on one connection still have public forms that begin alike:
// a message cut within an ID must be translatable by its first byte.
func TestCrowdedFirstByte(t *testing.T) {
	tab := New(DefaultConfig())
	for i := range 254 { // of the 255 that begin with 0
		request(t, tab.Open(masqueraded(inside(i), uint16(i))), 0)
	}
	c := tab.Open(masqueraded(inside(1000), 1000))
	var public []pptp.CallID
	for own := range pptp.CallID(spare) {
		public = append(public, request(t, c, own))
	}
	for own, id := range public {
		high := c.TranslateHigh(Initiator, Owns, 0)
		if got, ok := c.Translate(Initiator, Owns, pptp.CallID(own), &high); !ok || got != id {
			t.Errorf("call %v, known as %v, becomes %v in two steps", own, id, got)
		}
	}
}
