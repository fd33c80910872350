package status

import (
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/meter"
)

// TestCallsThatDoNotCarry are named as such: in the sums, as problems, in the list, and the
// filter finds them. The page and the meter share their looks.
func TestCallsThatDoNotCarry(t *testing.T) {
	f := newFake()
	for i, client := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"} {
		f.add(person{client: client, server: "203.0.113.9", own: 7, public: 7, peer: 9, state: calls.Established, age: time.Minute})
		f.calls[i].Flows[0].Key, f.calls[i].Flows[1].Key = f.calls[i].PNS.Public+pptp.CallID(i), f.calls[i].PAC.Public+pptp.CallID(i) // each has its own
	}
	f.carry(0, 900, 900)
	f.carry(1, 0, 1800)
	f.carry(2, 1800, 0)
	f.carry(3, 0, 0)
	cfg := f.config()
	cfg.Meter = meter.New(meter.Source{Calls: func() iter.Seq[[]calls.View] { return slices.Values([][]calls.View{f.views()}) }, Traffic: f.traffic})
	p := New(cfg)
	list := decode[List](t, get(t, p, "/api/calls?sort=client"))
	var got []string
	for _, c := range list.Calls {
		got = append(got, c.Carries+" "+c.NoneTo)
		if (c.NoneSince == nil) != (c.Carries == "both") {
			t.Errorf("%+v", c)
		}
	}
	if s := strings.Join(got, ","); s != "both ,one_way pns,one_way pac,silent " {
		t.Errorf("the calls carry %s", s)
	}
	for filter, want := range map[string]int{"one-way": 2, "silent": 1, "established": 4, "10.0.0.2+one-way": 1} {
		if l := decode[List](t, get(t, p, "/api/calls?filter="+filter)); l.Matching != want {
			t.Errorf("%q finds %d, want %d", filter, l.Matching, want)
		}
	}
	st := decode[Status](t, get(t, p, "/api/status"))
	if c := st.Sums.Calls; c.OneWay != 2 || c.Silent != 1 || c.Established != 4 {
		t.Errorf("%+v", c)
	}
	for i, want := range []string{
		`2 calls carry traffic one way only: for example, no GRE arrives from 203.0.113.9 for 10.0.0.2; "pptpalg explain 10.0.0.2" says why`,
		`1 call has never carried any traffic: no GRE has come from 10.0.0.4 or 203.0.113.9; "pptpalg explain 10.0.0.4" says why`,
	} {
		if i >= len(st.Problems) || st.Problems[i] != want {
			t.Errorf("problems: %q, want %q", st.Problems, want)
		}
	}
}
