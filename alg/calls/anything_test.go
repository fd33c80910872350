package calls

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pptpalg/alg/pptp"
)

// TestFollowAnything: whatever records come, in whatever order, of connections that come and
// go, the table holds together: its flows are those of its calls, no two calls have one
// public ID in one space, limits count what is there, and nothing is left when all calls are
// forgotten.
func TestFollowAnything(t *testing.T) {
	hairpin := Connection{
		Original: Tuple{netip.MustParseAddrPort("10.0.0.3:5"), netip.MustParseAddrPort("198.51.100.1:1723")},
		Reply:    Tuple{netip.MustParseAddrPort("10.0.0.2:1723"), netip.MustParseAddrPort("198.51.100.1:5")},
	}
	forwarded := Connection{
		Original: Tuple{netip.AddrPortFrom(outside, 5), netip.AddrPortFrom(public, 1723)},
		Reply:    Tuple{netip.MustParseAddrPort("10.0.0.2:1723"), netip.AddrPortFrom(outside, 5)},
	}
	connections := []Connection{masqueraded(inside(1), 1), masqueraded(inside(1), 2), masqueraded(inside(2), 3), hairpin, forwarded}
	rapid.Check(t, func(rt *rapid.T) {
		tab := New(testConfig(time.Minute))
		now := epoch
		controls := make([]*Control, len(connections))
		for i, c := range connections {
			controls[i] = tab.openFollowed(c)
		}
		flows := map[Flow]bool{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			c := controls[rapid.IntRange(0, len(controls)-1).Draw(rt, "connection")]
			switch rapid.SampledFrom([]string{"follow", "follow", "follow", "follow", "forget", "take over", "yield", "request", "time"}).Draw(rt, "step") {
			case "follow":
				c.Follow(drawRecord(rt, c.Connection()), now)
			case "forget":
				tab.Forget(rapid.Uint64Range(0, 6).Draw(rt, "number"), now.Add(time.Duration(rapid.IntRange(-90, 90).Draw(rt, "at"))*time.Second), now)
			case "take over":
				c.TakeOver(now)
			case "yield":
				c.Yield(now)
			case "request":
				if own := drawID(rt); !c.Followed() {
					if _, ok := c.Translate(Initiator, Requests, own, nil); ok {
						c.Request(Initiator, Initiator, own, now)
					}
				}
			case "time":
				now = now.Add(20 * time.Second)
				tab.Expire(now)
			}
			checkTable(rt, tab, controls, flows)
		}
		for _, c := range controls {
			c.Yield(now)
			for _, r := range c.Records(nil) {
				tab.Forget(r.Number, now, now)
			}
		}
		checkTable(rt, tab, controls, flows)
		tab.Expire(now.Add(time.Hour))
		if n := len(flows) + len(tab.entering) + len(tab.behind) + len(tab.leaving) + len(tab.followed) + len(tab.holders) + len(tab.spaces) + len(tab.resting); n != 0 {
			rt.Fatalf("%d things are left: %+v", n, tab)
		}
	})
}

func drawID(rt *rapid.T) pptp.CallID {
	return rapid.SampledFrom([]pptp.CallID{0, 1, 7, 7, 8, 0x0700, 0xffff}).Draw(rt, "id")
}

func drawRecord(rt *rapid.T, c Connection) Record {
	side := func(name string) Side { return Side(rapid.IntRange(0, 1).Draw(rt, name)) }
	r := Record{
		Number: rapid.Uint64Range(0, 3).Draw(rt, "number") | rapid.Uint64Range(0, 1).Draw(rt, "slot")<<slotShift, Connection: c,
		PNS: side("pns"), Asker: side("asker"), Payer: side("payer"), State: State(rapid.IntRange(0, 3).Draw(rt, "state")), Since: epoch,
	}
	r.Connection.Mark = rapid.Uint32Range(0, 1).Draw(rt, "mark")
	for s := range r.Legs {
		if r.Legs[s].Known = rapid.IntRange(0, 3).Draw(rt, "known") > 0; r.Legs[s].Known {
			r.Legs[s].Own, r.Legs[s].Public = drawID(rt), drawID(rt)
		}
	}
	return r
}

// checkTable compares the table with its calls and the flows that it has told of.
func checkTable(rt *rapid.T, tab *Table, controls []*Control, flows map[Flow]bool) {
	for _, e := range tab.Events() {
		switch f := e.Flow.Unmarked(); {
		case e.Kind == Install && flows[f], e.Kind == Remove && !flows[f]:
			rt.Fatalf("%v %v", e.Kind, f)
		case e.Kind == Install:
			flows[f] = true
		case e.Kind == Remove:
			delete(flows, f)
		}
	}
	type way struct {
		src, dst netip.Addr
		key      pptp.CallID
	}
	ways := map[way]bool{}
	ids := map[holding]uint64{}
	var own, foreign int
	for _, c := range controls {
		for _, r := range c.Records(nil) {
			if r.State != Clearing && c.Followed() {
				foreign++
			} else if r.State != Clearing {
				own++
			}
			for _, f := range r.Flows() {
				ways[way{f.Src, f.Dst, f.Key}] = true
			}
			for s, l := range r.Legs {
				h, lies := c.holding(Side(s), l.Public)
				if !l.Known || !lies {
					continue
				}
				if other, taken := ids[h]; taken {
					rt.Fatalf("the calls %#x and %#x have the ID %v", other, r.Number, l.Public)
				}
				ids[h] = r.Number
				if sp := tab.spaces[h.spaceKey]; sp == nil || !sp.has(h.id) || sp.rests(h.id) != nil {
					rt.Fatalf("the ID %v of the call %#x is not taken, or rests", l.Public, r.Number)
				}
			}
		}
	}
	for f := range flows {
		if w := (way{f.Src, f.Dst, f.Key}); !ways[w] {
			rt.Fatalf("no call needs %v", f)
		}
	}
	if len(ways) != len(flows) {
		rt.Fatalf("%d flows, and calls need %d", len(flows), len(ways))
	}
	if tab.Calls() != own || tab.Followed() != foreign {
		rt.Fatalf("%d calls count, and %d followed ones; there are %d and %d", tab.Calls(), tab.Followed(), own, foreign)
	}
	taken := 0
	for _, sp := range tab.spaces {
		taken += sp.taken
	}
	if pending := slices.ContainsFunc(controls, func(c *Control) bool { return c.pending[0].reserved || c.pending[1].reserved }); !pending && taken != len(ids)+len(tab.resting) {
		rt.Fatalf("%d IDs are taken; %d are calls', and %d rest", taken, len(ids), len(tab.resting))
	}
}
