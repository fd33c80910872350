package calls

import (
	"net/netip"
	"testing"
	"time"
)

func TestReserve(t *testing.T) {
	tab := New(testConfig(time.Minute))
	toClient := masqueraded(inside(1), 4000).flow(Initiator, 7, 7)
	toServer := masqueraded(inside(1), 4000).flow(Responder, 9, 9)
	zero := masqueraded(inside(1), 4000).flow(Initiator, 0, 0)
	for _, f := range []Flow{toClient, toServer, zero} {
		if !tab.Reserve(f) {
			t.Errorf("%v is taken", f)
		}
	}
	if tab.Reserve(toClient) {
		t.Error("it is reserved twice")
	}
	elsewhere := toClient
	elsewhere.Src = netip.MustParseAddr("203.0.113.10")
	otherZone := toClient
	otherZone.Zone = 5
	for _, f := range []Flow{elsewhere, otherZone} {
		if !tab.Reserve(f) {
			t.Errorf("%v is taken", f)
		}
	}

	c := tab.Open(masqueraded(inside(2), 4001))
	if id := dial(t, c, 7, 9); id == 7 {
		t.Error("a reserved ID was given to a call")
	}
	tab.Expire(epoch.Add(time.Hour))
	if id := dial(t, c, 8, 10); id != 8 {
		t.Errorf("8 became %v", id)
	}

	for _, f := range []Flow{toClient, toServer, zero} {
		tab.Unreserve(f, epoch)
	}
	if n := tab.RestingIDs(); n != 1 {
		t.Errorf("%d IDs rest, want 1", n)
	}
	third := tab.Open(masqueraded(inside(3), 4002))
	if id := dial(t, third, 7, 11); id == 7 {
		t.Error("an ID that rests was given to a call")
	}
	tab.Expire(epoch.Add(time.Minute))
	if id := dial(t, tab.Open(masqueraded(inside(4), 4003)), 7, 12); id != 7 {
		t.Errorf("7 became %v", id)
	}
	if tab.Reserve(toClient) {
		t.Error("an ID in use was reserved")
	}
}

// TestReserveFromTheGatewaysOwn: an end that NAT does not hide cannot have a reserved ID either.
func TestReserveFromTheGatewaysOwn(t *testing.T) {
	tab := New(testConfig(time.Minute))
	if !tab.Reserve(masqueraded(inside(1), 4000).flow(Initiator, 7, 9)) {
		t.Fatal("it is taken")
	}
	own := Connection{
		Original: Tuple{netip.AddrPortFrom(public, 5000), netip.AddrPortFrom(outside, 1723)},
		Reply:    Tuple{netip.AddrPortFrom(outside, 1723), netip.AddrPortFrom(public, 5000)},
	}
	c := tab.Open(own)
	c.SetLocal(Initiator)
	if _, ok := c.Assign(Initiator, 9, nil); ok || c.Refusal(Initiator) != IDTaken {
		t.Errorf("it has the ID: %v", c.Refusal(Initiator))
	}
}
