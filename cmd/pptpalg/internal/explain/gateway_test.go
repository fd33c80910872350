package explain

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
)

// What is wrong with the gateway stands first where it explains what is seen, and is left
// out where it does not.
func TestWeigh(t *testing.T) {
	opening, over := link, link
	opening.Opening, over.Closing = true, true
	before := []history.Event{opened(alg.Read), said(them, pptp.OutgoingCallReply, 1), closed(calls.Reset)}
	tests := []struct {
		name     string
		facts    Facts
		problems string // checks
		want     string // codes
	}{
		{"nothing came, port closed", Facts{}, "firewall-control", "firewall-control never_seen"},
		{"nothing came, flushed", Facts{}, "daemon firewall-gre nat", "nat rules_missing never_seen"},
		{"nothing comes any more", Facts{Events: before}, "firewall-control", "firewall-control call_ended"},
		{"over a moment ago", Facts{Events: before, Connections: []calls.Connection{over}}, "proxy", "proxy call_ended"},
		{"helper, and of old", Facts{Events: []history.Event{opened(alg.Helped)}}, "kernel-helper firewall-control", "firewall-control kernel_helper"},
		{"no answer", Facts{Connections: []calls.Connection{opening}}, "firewall-control ip-forward", "firewall-control server_no_answer"},
		{"no answer of before, and a helper now", Facts{Connections: []calls.Connection{opening}}, "kernel-helper", "kernel_helper server_no_answer"},
		{"no answer of before, and flushed now", Facts{Connections: []calls.Connection{opening}}, "daemon", "rules_missing server_no_answer"},
		{"unseen", Facts{Connections: []calls.Connection{link}}, "daemon", "rules_missing not_queued"},
		{"not PPTP", Facts{Events: []history.Event{opened(alg.Read), odd(alg.NotPPTPFound)}, Connections: []calls.Connection{link}}, "proxy nat", "proxy not_pptp"},
		{"up", Facts{Events: before[:2], Calls: call(way(4), way(4))}, "firewall-gre firewall-control", "firewall-gre"},
		{"up, flushed", Facts{Events: before[:2], Calls: call(way(4), way(4))}, "daemon nat", "working rules_missing nat"},
		{"up, and forwarding turned off", Facts{Events: before[:2], Calls: call(way(4), way(4))}, "ip-forward", "ip-forward"},
		{"up, and a helper for the next", Facts{Events: before[:2], Calls: call(way(4), way(4))}, "kernel-helper", "working kernel_helper"},
		{"refused by the server", Facts{Events: []history.Event{opened(alg.Read), said(them, pptp.StartControlConnectionReply, 4)}, Connections: []calls.Connection{link}},
			"firewall-control daemon", "server_refused"},
		{"well", Facts{Events: before[:2], Calls: call(way(4), way(4))}, "", "working"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.facts.Client, tt.facts.Now = client, now
			r := New(tt.facts)
			var problems []Problem
			for _, check := range strings.Fields(tt.problems) {
				problems = append(problems, Problem{check, "found by " + check, "remedy of " + check})
			}
			r.Weigh(problems)
			var codes []string
			for _, c := range r.Causes {
				codes = append(codes, c.Code)
			}
			if diff := cmp.Diff(tt.want, strings.Join(codes, " ")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestWeighExactly: what the daemon has found too is told in the words of the check.
func TestWeighExactly(t *testing.T) {
	r := New(Facts{Client: client, Now: now, Events: []history.Event{opened(alg.Helped)}, Connections: []calls.Connection{link}})
	r.Weigh([]Problem{{"kernel-helper", "attached by a rule", "iptables -D"}})
	if diff := cmp.Diff([]Cause{{"kernel_helper", "attached by a rule", "iptables -D"}}, r.Causes); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestEarlierDaemons: of a connection that was taken up after a restart nothing is told, and
// it is edited all the same.
func TestEarlierDaemons(t *testing.T) {
	f := Facts{Client: client, Now: now, Connections: []calls.Connection{link}}
	if r := New(f); r.Control.Edited || r.Control.Reason == "" {
		t.Errorf("without calls: %+v", r.Control)
	}
	f.Calls = call(way(1), way(1))
	if r := New(f); !r.Control.Edited || r.Control.Reason != "" {
		t.Errorf("with a call: %+v", r.Control)
	}
}

// A connection that is over is shown as such, with when it was last seen.
func TestOver(t *testing.T) {
	var b strings.Builder
	r := New(Facts{Client: client, Now: now, Events: []history.Event{opened(alg.Read)}})
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	if want := "from outside 198.51.100.1:4000; ended, last seen at 2026-01-02T03:03:05Z (1m0s ago)\n"; !strings.Contains(b.String(), want) {
		t.Errorf("%q is not in\n%s", want, b.String())
	}
}
