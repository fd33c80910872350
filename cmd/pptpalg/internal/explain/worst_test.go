package explain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
)

// TestWorst: who has no trouble is left out, and the worst comes first.
func TestWorst(t *testing.T) {
	helped, opening := link, link
	helped.Helper, opening.Opening = "pptp", true
	granted := []history.Event{opened(alg.Read), said(us, pptp.StartControlConnectionRequest, 0), said(them, pptp.StartControlConnectionReply, 1), said(us, pptp.OutgoingCallRequest, 0), said(them, pptp.OutgoingCallReply, 1)}
	facts := []Facts{
		{Events: granted, Calls: call(way(1), way(1))},
		{Events: append(slices.Clone(granted), closed(calls.Cleared))},
		{Events: append(slices.Clone(granted), closed(calls.Reset))},
		{Connections: []calls.Connection{opening}},
		{Events: granted, Calls: call(way(0), way(4))},
		{Connections: []calls.Connection{helped}},
		{Events: []history.Event{opened(alg.Read), old(closed(calls.Reset))}},
		{Events: granted, Calls: call(Way{Present: true}, Way{Present: true})},
	}
	var all []Report
	for i, f := range facts {
		f.Client, f.Now = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), now
		if r := New(f); r.Trouble() {
			all = append(all, r)
		}
	}
	Worst(all)
	var got []string
	for _, r := range all {
		got = append(got, r.Client.String()+" "+r.Causes[0].Code)
	}
	if s, want := strings.Join(got, ", "), "10.0.0.5 kernel_helper, 10.0.0.4 no_gre_from_server, 10.0.0.3 server_no_answer, 10.0.0.2 call_ended"; s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}

// TestWorstKnowsLimits: each limit that was reached is trouble.
func TestWorstKnowsLimits(t *testing.T) {
	for a := range limitWords {
		if !slices.Contains(worst, a.String()) {
			t.Errorf("%v has no place", a)
		}
	}
}
