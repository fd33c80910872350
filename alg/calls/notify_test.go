package calls

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/alg/pptp"
)

// TestAmbiguousNotify: the server assigns a number later that is a public ID of the
// client's, or that with its bytes exchanged. What is being cleared decides, then the form
// that the server has used before, then the RFC.
//
// The client's calls are 7, 8, 9 to itself; another one has these public IDs, so that all
// look otherwise to the server.
func TestAmbiguousNotify(t *testing.T) {
	const receivers, swapped = 1, 2
	type call struct{ own, public, sid pptp.CallID }
	tests := []struct {
		name   string
		before int // the form of an earlier notify
		clear  int // which of the two calls the client clears, 0 for neither, 3 for both
		form   int // in which the number is a public ID of the first call
		ends   int
	}{
		{"by the RFC", 0, 0, receivers, 2},
		{"what is being cleared", 0, 1, receivers, 1},
		{"what is being cleared, by the RFC", receivers, 2, receivers, 2},
		{"both are being cleared", 0, 3, receivers, 2},
		{"both are being cleared, and the form is known", receivers, 3, receivers, 1},
		{"the form used before", receivers, 0, receivers, 1},
		{"another form used before", swapped, 0, receivers, 2},
		{"swapped: by the RFC", 0, 0, swapped, 2},
		{"swapped: what is being cleared", 0, 1, swapped, 1},
		{"swapped: the form used before", swapped, 0, swapped, 1},
		{"swapped: another form used before", receivers, 0, swapped, 2},
	}
	for _, tt := range tests {
		for _, cut := range []bool{false, true} {
			name := tt.name
			if cut {
				name += ", cut"
			}
			t.Run(name, func(t *testing.T) {
				tab := New(testConfig(time.Minute))
				crowd, c := tab.Open(masqueraded(inside(1), 1)), tab.Open(masqueraded(inside(2), 2))
				for own := range pptp.CallID(10) {
					request(t, crowd, own)
				}
				forms := func(x call) [3]pptp.CallID { return [3]pptp.CallID{x.sid, x.public, x.public.Swap()} }
				calls := []call{{own: 7, sid: 0x5001}, {own: 8}, {own: 9, sid: 0x5003}}
				calls[0].public = dial(t, c, 7, 0x5001)
				calls[1].sid = forms(calls[0])[tt.form] // the same number as the first call's
				calls[1].public = dial(t, c, 8, calls[1].sid)
				calls[2].public = dial(t, c, 9, 0x5003)
				notify := func(id pptp.CallID) pptp.CallID {
					var sent *byte
					if cut {
						high := c.TranslateHigh(Responder, Notifies, id.High())
						sent = &high
					}
					shown, ok := c.Translate(Responder, Notifies, id, sent)
					if !ok || !c.Disconnect(Responder, id, shown, epoch) {
						t.Fatalf("notify %#04x: no such call", int(id))
					}
					return shown
				}
				notify(forms(calls[2])[tt.before])
				for i := range 2 {
					if tt.clear>>i&1 == 1 {
						c.Clear(Initiator, calls[i].own, epoch)
					}
				}
				shown := notify(calls[1].sid)
				want := map[int]pptp.CallID{2: calls[1].sid, 1: [3]pptp.CallID{0, 7, 0x0700}[tt.form]}[tt.ends]
				if shown != want {
					t.Errorf("the client is shown %#04x, want %#04x", int(shown), int(want))
				}
				gone, stays := calls[tt.ends-1], calls[2-tt.ends]
				if c.ownLeg(Initiator, gone.own) != nil || c.ownLeg(Initiator, stays.own) == nil {
					t.Errorf("call %v is to end, and %v to stay", gone.own, stays.own)
				}
			})
		}
	}
}

// TestNotifyOfManyCalls: where a connection has many calls, the first byte tells as much
// as where it has few.
func TestNotifyOfManyCalls(t *testing.T) {
	tab := New(testConfig(time.Minute))
	crowd, c := tab.Open(masqueraded(inside(1), 1)), tab.Open(masqueraded(inside(2), 2))
	for own := range pptp.CallID(300) {
		request(t, crowd, own)
	}
	public := make([]pptp.CallID, 20)
	for own := range pptp.CallID(20) {
		public[own] = dial(t, c, own, 0x5000+own)
	}
	for own, id := range public {
		for form, want := range map[pptp.CallID]pptp.CallID{pptp.CallID(0x5000 + own): pptp.CallID(0x5000 + own), id: pptp.CallID(own), id.Swap(): pptp.CallID(own).Swap()} {
			high := c.TranslateHigh(Responder, Notifies, form.High())
			if got, ok := c.Translate(Responder, Notifies, form, &high); !ok || got != want {
				t.Errorf("notify %#04x of call %d becomes %#04x, want %#04x", int(form), own, int(got), int(want))
			}
		}
	}
	if high := c.TranslateHigh(Responder, Notifies, 0x77); high != 0x77 {
		t.Errorf("the first byte of an ID that is nobody's becomes %#02x", high)
	}
	if id, ok := c.Translate(Responder, Notifies, 0x7777, nil); ok || id != 0x7777 || c.Disconnect(Responder, 0x7777, 0x7777, epoch) {
		t.Errorf("an ID that is nobody's becomes %#04x", int(id))
	}
}

// TestNotifyKeepsItsForm has a server clear calls in one form, whose numbers are those of
// other calls in other forms. Once it has shown its form, each notify ends the call that
// it means, but for one that is not being cleared where the number is that of one that is.
func TestNotifyKeepsItsForm(t *testing.T) { rapid.Check(t, notifies) }

// FuzzNotify is the same for the fuzzer.
func FuzzNotify(f *testing.F) { f.Fuzz(rapid.MakeFuzz(notifies)) }

func notifies(rt *rapid.T) {
	tab := New(testConfig(time.Minute))
	crowd, c := tab.Open(masqueraded(inside(1), 1)), tab.Open(masqueraded(inside(2), 2))
	own := rapid.SampledFrom([]pptp.CallID{0, 1, 7, 0x0100, 0x0700, 0x0107, 0x0701, 0xff00, 0xfe})
	for _, id := range rapid.SliceOfDistinct(own, rapid.ID).Draw(rt, "crowd") {
		c := crowd
		c.Assign(Initiator, id, nil)
		c.Request(Initiator, Initiator, id, epoch)
	}
	form := rapid.IntRange(0, 2).Draw(rt, "form")
	said := func(l *leg, sid pptp.CallID) pptp.CallID {
		return [...]pptp.CallID{sid, l.public, l.public.Swap()}[form]
	}
	open := func(own, sid pptp.CallID) *Call {
		id, _ := c.Assign(Initiator, own, nil)
		c.Request(Initiator, Initiator, own, epoch)
		c.Assign(Responder, sid, nil)
		c.Reply(Responder, Reply{PNS: Initiator, Own: sid, Peer: id, Granted: true, Next: Established}, epoch)
		return c.ownLeg(Initiator, own).call
	}
	first := open(0x3344, 0x5566)
	id := said(&first.legs[0], 0x5566)
	shown, _ := c.Translate(Responder, Notifies, id, nil)
	c.Disconnect(Responder, id, shown, epoch)
	sids := []pptp.CallID{0x5001, 0x5002, 0x5003, 0x5004}
	var calls []*Call
	for _, own := range rapid.SliceOfNDistinct(own, 1, 4, rapid.ID).Draw(rt, "own") {
		sid := rapid.SampledFrom(sids).Filter(func(id pptp.CallID) bool { return c.ownLeg(Responder, id) == nil }).Draw(rt, "sid")
		call := open(own, sid)
		calls = append(calls, call)
		sids = append(sids, call.legs[0].public, call.legs[0].public.Swap()) // later ones may be these
	}
	for _, call := range calls {
		if rapid.Bool().Draw(rt, "cleared") {
			c.Clear(Initiator, call.legs[0].own, epoch)
		}
	}
	for _, call := range rapid.Permutation(calls).Draw(rt, "order") {
		if call.index < 0 {
			continue // ended in another's place
		}
		l := &call.legs[0]
		id := said(l, call.legs[1].own)
		want := [...]pptp.CallID{call.legs[1].own, l.own, l.own.Swap()}[form]
		misread := false
		for _, f := range forward {
			if o := f.leg(c, Responder, id); o != nil && o.call != call && o.call.state == Clearing && call.state != Clearing {
				misread = true
			}
		}
		if misread {
			continue
		}
		got, ok := c.Translate(Responder, Notifies, id, nil)
		if !ok || got != want || !c.Disconnect(Responder, id, got, epoch) || call.index >= 0 {
			rt.Fatalf("notify %#04x in form %d becomes %#04x, want %#04x; the call is gone: %v", int(id), form, int(got), int(want), call.index < 0)
		}
	}
}
