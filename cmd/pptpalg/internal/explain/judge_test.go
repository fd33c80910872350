package explain

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
)

var (
	now    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	client = netip.MustParseAddr("10.0.0.10")
	link   = calls.Connection{
		Original: calls.Tuple{Src: netip.MustParseAddrPort("10.0.0.10:4000"), Dst: netip.MustParseAddrPort("203.0.113.9:1723")},
		Reply:    calls.Tuple{Src: netip.MustParseAddrPort("203.0.113.9:1723"), Dst: netip.MustParseAddrPort("198.51.100.1:4000")},
	}
)

// event is one of the connection, a minute ago.
func event(k history.Kind, change func(e *history.Event)) history.Event {
	e := history.Event{Time: now.Add(-time.Minute), Kind: k, Ends: history.EndsOf(&link)}
	if change != nil {
		change(&e)
	}
	return e
}

func opened(r alg.Reason) history.Event {
	return event(history.ConnectionOpened, func(e *history.Event) { e.Reason = r })
}

func said(from calls.Side, t pptp.Type, result byte) history.Event {
	return event(history.MessageRead, func(e *history.Event) { e.From, e.Message = from, alg.Message{Type: t, Result: result} })
}

func odd(a alg.Anomaly) history.Event {
	return event(history.AnomalySeen, func(e *history.Event) { e.Anomaly = a })
}

func closed(c calls.Cause) history.Event {
	return event(history.CallClosed, func(e *history.Event) {
		e.Call = history.Call{Number: 1, Since: e.Time.Add(-10 * time.Second), Cause: c}
	})
}

// carried is the end of a call that has carried so many packets to the client and to the server.
func carried(toClient, toServer uint64, lasted time.Duration) history.Event {
	e := closed(calls.Cleared)
	e.Call.Since = e.Time.Add(-lasted)
	e.Call.Legs = [2]calls.LegRecord{{Known: true}, {Known: true}}
	e.Call.Traffic = [2]calls.Traffic{us: {Packets: toClient, Counted: true}, them: {Packets: toServer, Counted: true}}
	return e
}

func old(e history.Event) history.Event {
	e.Time = e.Time.Add(-time.Hour)
	return e
}

// late is an event of two seconds ago.
func late(e history.Event) history.Event {
	e.Time = now.Add(-2 * time.Second)
	return e
}

const us, them = calls.Initiator, calls.Responder

// call is up for a minute, with its GRE both ways.
func call(toClient, toPeer Way) []Call {
	v := calls.View{
		Number: 1, State: calls.Established, Since: now.Add(-time.Minute),
		PNS: calls.Party{Endpoint: link.Endpoint(us)}, PAC: calls.Party{Endpoint: link.Endpoint(them)},
	}
	return []Call{{View: v, ToClient: toClient, ToPeer: toPeer}}
}

// another is a call to another server, which began at the same time.
func another(toClient, toPeer Way) Call {
	c := call(toClient, toPeer)[0]
	c.Number, c.PAC.Endpoint = 2, calls.Endpoint{Address: netip.MustParseAddr("203.0.113.8"), Public: netip.MustParseAddr("203.0.113.8")}
	return c
}

// young is a call that is three seconds old.
func young(all []Call) []Call {
	all[0].Since = now.Add(-3 * time.Second)
	return all
}

// outside is the call of a client outside with a server behind NAT.
func outside(all []Call) []Call {
	all[0].PNS.Endpoint = calls.Endpoint{Address: client, Public: client}
	all[0].PAC.Endpoint = calls.Endpoint{Address: netip.MustParseAddr("10.0.0.99"), Public: netip.MustParseAddr("198.51.100.1")}
	return all
}

// after is a handshake whose last packet passed so long ago.
func after(c calls.Connection, d time.Duration) calls.Connection {
	c.Opening, c.Left = true, 120*time.Second-d
	return c
}

var handshakes = Handshakes{Sent: 120 * time.Second, Answered: 60 * time.Second}

func way(packets uint64) Way {
	return Way{Present: true, Traffic: calls.Traffic{Packets: packets, Counted: true}}
}

// tooBig is a way of which a router has said a minute ago that two packets were too big.
func tooBig(mtu int) Way {
	w := way(4)
	w.TooBig = TooBig{Errors: 2, Last: now.Add(-time.Minute), Router: netip.MustParseAddr("203.0.113.77"), Size: 1500, MTU: mtu}
	return w
}

func beforeThat(w Way) Way {
	w.TooBig.Last = now.Add(-time.Hour)
	return w
}

func TestJudge(t *testing.T) {
	opening, over, plain, helped := link, link, link, link
	opening.Opening, over.Closing, helped.Helper = true, true, "pptp"
	answered := opening
	answered.Answered = true
	plain.Reply = plain.Original.Reversed()
	unhidden, routed, next := plain, plain, link
	unhidden.Opening, routed.Opening = true, true
	routed.Original.Dst = netip.MustParseAddrPort("10.9.9.9:1723")
	routed.Reply = routed.Original.Reversed()
	next.Original.Src, next.Reply.Dst = netip.MustParseAddrPort("10.0.0.10:4001"), netip.MustParseAddrPort("198.51.100.1:4001")
	nextOver := next
	nextOver.Closing = true
	elsewhere := link
	elsewhere.Original.Src, elsewhere.Original.Dst = netip.MustParseAddrPort("10.0.0.10:4002"), netip.MustParseAddrPort("203.0.113.8:1723")
	elsewhere.Reply = calls.Tuple{Src: elsewhere.Original.Dst, Dst: netip.MustParseAddrPort("198.51.100.1:4002")}
	stray := Stray{From: link.Original.Dst.Addr(), To: link.Reply.Dst.Addr(), CallID: 9, Traffic: way(3).Traffic}
	shared := stray
	shared.Shared = true
	ownStray := Stray{From: client, To: link.Original.Dst.Addr(), CallID: 9}
	granted := []history.Event{
		opened(alg.Read), said(us, pptp.StartControlConnectionRequest, 0), said(them, pptp.StartControlConnectionReply, 1),
		said(us, pptp.OutgoingCallRequest, 0), said(them, pptp.OutgoingCallReply, 1),
	}
	tests := []struct {
		name  string
		facts Facts
		want  string // codes
		text  string // of the first cause
	}{
		{"nothing at all", Facts{}, "never_seen", "10.0.0.10"},
		{"nothing, and the route to it leads out", Facts{Outside: Device{"wan", 1500}, Inside: Device{"wan", 1500}}, "never_seen wrong_route", ""},
		{"nothing, and what comes is dropped for its route", Facts{Outside: Device{"wan", 1500}, Inside: Device{"wan", 1500}, Astray: Dropped{4, now.Add(-10 * time.Second)}}, "wrong_route never_seen", "10.0.0.10 leads over wan, where the servers are, so the kernel drops what comes from it on another interface (rp_filter; 4 packets"},
		{"nothing, and others' packets are dropped", Facts{Outside: Device{"wan", 1500}, Inside: Device{"lan", 1500}, Astray: Dropped{4, now.Add(-10 * time.Second)}}, "never_seen", ""},
		{"nothing, of the gateway's own address", Facts{Homes: []netip.Addr{client}}, "own_address", "10.0.0.10 is an address of this gateway"},
		{"nothing, and no rules", Facts{Rules: RulesMissing}, "rules_missing never_seen", "not loaded"},
		{"somebody refused", Facts{Refusals: []Refusal{{now, link.Original.Dst, link.Reply.Dst}}}, "server_refused_tcp never_seen", "perhaps this client's"},
		{"it was refused", Facts{Refusals: []Refusal{{now, link.Original.Dst, link.Original.Src}}}, "server_refused_tcp never_seen", "03:04:05Z"},
		{"SYN sent", Facts{Connections: []calls.Connection{opening}}, "server_no_answer", "203.0.113.9:1723"},
		{"SYN sent, without NAT", Facts{Connections: []calls.Connection{unhidden}}, "untranslated server_no_answer", "inside address"},
		{"SYN sent from an address that is here", Facts{Connections: []calls.Connection{opening}, Homes: []netip.Addr{link.Reply.Dst.Addr()}}, "server_no_answer", ""},
		{"SYN sent from an address that is not here", Facts{Connections: []calls.Connection{opening}, Homes: []netip.Addr{client}}, "public_elsewhere server_no_answer", "with the source address 198.51.100.1, which is on no interface"},
		{"SYN answered, and no more", Facts{Connections: []calls.Connection{answered}}, "answer_lost", "203.0.113.9:1723 has answered 10.0.0.10, and TCP's handshake went no further"},
		{"SYN answered, and the way back leads out", Facts{Connections: []calls.Connection{answered}, Outside: Device{"wan", 1500}, Inside: Device{"wan", 1500}}, "answer_lost", "route to it leads over wan"},
		{"SYN sent, routed", Facts{Connections: []calls.Connection{routed}}, "server_no_answer", ""},
		{"unseen, after a call", Facts{Connections: []calls.Connection{next}, Events: append(granted, closed(calls.Reset))}, "not_queued call_ended", "10.0.0.10:4001"},
		{"the same, over", Facts{Connections: []calls.Connection{nextOver}, Events: append(granted, closed(calls.Reset))}, "call_ended", ""},
		{"SYN sent again, after a call", Facts{Connections: []calls.Connection{opening}, Events: append(granted, closed(calls.Reset))},
			"server_no_answer call_ended", ""},
		{"closed early", Facts{Connections: []calls.Connection{over}}, "closed_early", ""},
		{"unseen", Facts{Connections: []calls.Connection{link}}, "not_queued", ""},
		{"unseen, and no rules", Facts{Connections: []calls.Connection{link}, Rules: RulesMissing}, "rules_missing", ""},
		{"unseen, with a helper", Facts{Connections: []calls.Connection{helped}}, "kernel_helper", "helper"},
		{"unseen, without NAT", Facts{Connections: []calls.Connection{plain}}, "untranslated", ""},
		{"unseen, without NAT, followed", Facts{Connections: []calls.Connection{plain}, Follows: true}, "not_queued", ""},
		{"helper", Facts{Events: []history.Event{opened(alg.Helped)}}, "kernel_helper", ""},
		{"too many connections", Facts{Events: []history.Event{opened(alg.NoConnection)}}, "too_many_connections", ""},
		{"not PPTP", Facts{Events: []history.Event{opened(alg.Read), odd(alg.NotPPTPFound)}}, "not_pptp", "the client 10.0.0.10 does not"},
		{"the gateway's own", Facts{Events: append([]history.Event{opened(alg.Untranslated)}, granted[1:3]...)}, "no_call", ""},
		{"rate", Facts{Events: append(granted[:3:3], odd(alg.LimitRate), said(us, pptp.OutgoingCallRequest, 0))}, "limit_rate call_unanswered", "too fast"},
		{"Start refused", Facts{Events: append(granted[:2:2], said(them, pptp.StartControlConnectionReply, 5))}, "server_refused", "5 (protocol version not supported)"},
		{"Start not answered", Facts{Events: granted[:2]}, "start_unanswered", ""},
		{"call not answered", Facts{Events: granted[:4]}, "call_unanswered", "at 2026-01-02T03:03:05Z"},
		{"call refused", Facts{Events: append(granted[:4:4], said(them, pptp.OutgoingCallReply, 4), closed(calls.Refused))},
			"call_refused", "the other end 203.0.113.9: Outgoing-Call-Reply with result 4 (busy)"},
		{"refused, then granted", Facts{Events: append(granted[:4:4], said(them, pptp.OutgoingCallReply, 4), said(them, pptp.OutgoingCallReply, 1)), Calls: call(way(1), way(1))},
			"working", ""},
		{"ended by the server", Facts{Events: append(granted[:5:5], said(them, pptp.CallDisconnectNotify, 3), closed(calls.Disconnected))},
			"call_ended", "by the other end 203.0.113.9: Call-Disconnect-Notify with result 3 (admin shutdown), at 2026-01-02T03:03:05Z (1m0s ago), after 10s"},
		{"ended without GRE from the server", Facts{Events: append(granted[:5:5], carried(0, 9, 30*time.Second))}, "no_gre_from_server call_ended", "no GRE came from the other end; 9 packets"},
		{"ended without GRE from the client", Facts{Events: append(granted[:5:5], carried(9, 0, 30*time.Second))}, "no_gre_from_client call_ended", "no GRE came from the client; 9 packets"},
		{"ended without GRE", Facts{Events: append(granted[:5:5], carried(0, 0, 30*time.Second))}, "no_gre call_ended", "from either end"},
		{"ended with GRE", Facts{Events: append(granted[:5:5], carried(1, 9, 30*time.Second))}, "call_ended", ""},
		{"ended too soon", Facts{Events: append(granted[:5:5], carried(0, 9, 3*time.Second))}, "call_ended", ""},
		{"expired", Facts{Events: append(granted[:5:5], closed(calls.Expired))}, "call_ended", "timeout"},
		{"no call", Facts{Events: granted[:3]}, "no_call", ""},
		{"not counted", Facts{Events: granted, Calls: call(Way{Present: true}, Way{Present: true})}, "not_counted", ""},
		{"no GRE", Facts{Events: granted, Calls: call(way(0), way(0))}, "no_gre", ""},
		{"none from the server", Facts{Events: granted, Calls: call(way(0), way(4))}, "no_gre_from_server", "4 GRE packets"},
		{"none from the client", Facts{Events: granted, Calls: call(way(5), way(0))}, "no_gre_from_client", "5 GRE packets"},
		{"none from the client, for the way back", Facts{Events: granted, Calls: call(way(5), way(0)), Outside: Device{"wan", 1500}, Inside: Device{"wan", 1500}, Astray: Dropped{4, now}}, "wrong_route no_gre_from_client", "leads over wan"},
		{"GRE without a flow", Facts{Events: granted, Calls: call(way(0), way(4)), OverQueue: true, Unmatched: 9}, "no_gre_from_server gre_without_flow", ""},
		{"GRE without a flow, of the kernel's", Facts{Events: granted, Calls: call(way(0), way(4)), Strays: []Stray{stray}},
			"gre_without_flow no_gre_from_server", "for Call ID 9, which no call has (3 packets)"},
		{"GRE without a flow beside a call that works", Facts{Events: granted, Calls: call(way(1), way(4)), Strays: []Stray{{}}}, "working", ""},
		{"flow missing", Facts{Events: granted, Calls: call(Way{}, way(4))}, "flow_missing", ""},
		{"call of an earlier daemon", Facts{Calls: call(way(1), way(1))}, "working", ""},
		{"ended long ago", Facts{Events: []history.Event{opened(alg.Read), old(closed(calls.Reset))}}, "call_ended nothing_since", "TCP was reset"},
		{"strange messages", Facts{Events: append(granted[:3:3], odd(alg.BadMessage), odd(alg.EarlyRequest))}, "bad_messages early_request", "the client 10.0.0.10 sends"},
		{"SYN of before, and a helper on what came since", Facts{Connections: []calls.Connection{opening, helped}, Events: []history.Event{opened(alg.Helped)}}, "kernel_helper no_answer_before", "helper"},
		{"SYN of before, and no call on what came since", Facts{Connections: []calls.Connection{opening, link}, Events: granted[:3]}, "no_call no_answer_before", ""},
		{"SYN of before, and a call since", Facts{Connections: []calls.Connection{opening, link}, Events: granted, Calls: call(way(1), way(1))}, "working", ""},
		{"the server has stopped sending", Facts{Events: granted, Calls: stuck(true)}, "no_gre_from_server", "since 2026-01-02T03:03:45Z (20s ago) no GRE has come from the other end"},
		{"the client has stopped sending", Facts{Events: granted, Calls: stuck(false)}, "no_gre_from_client", "since 2026-01-02T03:03:45Z (20s ago) no GRE has come from the client"},
		{"too large", Facts{Events: granted, Calls: call(way(1), way(1)), TooBig: Dropped{Packets: 3, Last: now.Add(-time.Minute)}, Outside: Device{"ppp0", 1492}, Inside: Device{"lan", 1500}}, "mtu working",
			"dropped 3 of them, the last one at 2026-01-02T03:03:05Z (1m0s ago), with an ICMP error \"fragmentation needed\" for each (the kernel does not say whose packets they were): their route goes over ppp0, whose MTU is 1492 bytes"},
		{"too large for a router", Facts{Events: granted, Calls: call(way(1), tooBig(1400)), TooBig: Dropped{Packets: 3, Last: now.Add(-time.Hour)}}, "mtu working",
			"the call has packets to 203.0.113.9 that are larger than an MTU on their way and must not be fragmented (DF): 203.0.113.77 has sent the ICMP error \"fragmentation needed\" (heard 2 times, the last time at 2026-01-02T03:03:05Z (1m0s ago), about a packet of 1500 bytes; the MTU there is 1400 bytes)"},
		{"too large for a router that tells no MTU", Facts{Events: granted, Calls: call(tooBig(0), way(1))}, "mtu working", "packets to 10.0.0.10 that are larger"},
		{"too large for a router once", Facts{Events: granted, Calls: call(beforeThat(tooBig(1400)), way(1))}, "working", ""},
		{"too large for a router, and asked about with others", Facts{Events: granted, Calls: call(tooBig(1400), way(1)), Many: true}, "mtu working", ""},
		{"too large, and not counted", Facts{Events: granted, Calls: call(Way{Present: true}, Way{Present: true, TooBig: tooBig(1400).TooBig})}, "mtu not_counted", ""},
		{"too large, and one-way", Facts{Events: granted, Calls: call(way(0), tooBig(1400))}, "no_gre_from_server mtu", ""},
		{"too large once", Facts{Events: granted, Calls: call(way(1), way(1)), TooBig: Dropped{Packets: 3, Last: now.Add(-time.Hour)}}, "working", ""},
		{"one call of two is one-way", Facts{Events: granted, Calls: append(call(way(0), way(4)), another(way(5), way(5)))}, "no_gre_from_server working", "call 1 to 203.0.113.9 is up and 4 GRE packets"},
		{"both calls carry", Facts{Events: granted, Calls: append(call(way(4), way(4)), another(way(5), way(5)))}, "working", "2 calls are up"},
		{"both calls are silent", Facts{Events: granted, Calls: append(call(way(0), way(0)), another(way(0), way(0)))}, "no_gre", "call 2 to 203.0.113.8 has been up for 1m0s"},
		{"a call, and a SYN to another server now", Facts{Events: granted, Calls: call(way(4), way(4)), Connections: []calls.Connection{link, after(elsewhere, 5*time.Second)}, Handshakes: handshakes}, "server_no_answer working", "203.0.113.8:1723 does not answer"},
		{"a call, and a SYN to another server before", Facts{Events: granted, Calls: call(way(4), way(4)), Connections: []calls.Connection{link, after(elsewhere, time.Minute)}, Handshakes: handshakes}, "working", ""},
		{"a one-way call, and a SYN to another server now", Facts{Events: granted, Calls: call(way(0), way(4)), Connections: []calls.Connection{link, after(elsewhere, 5*time.Second)}, Handshakes: handshakes}, "no_gre_from_server server_no_answer", ""},
		{"no call, and a SYN to another server now", Facts{Events: granted[:3], Connections: []calls.Connection{link, after(elsewhere, 5*time.Second)}, Handshakes: handshakes}, "server_no_answer", "203.0.113.8:1723 does not answer"},
		{"a SYN without NAT, some time ago", Facts{Connections: []calls.Connection{after(plain, 70*time.Second)}, Handshakes: handshakes}, "untranslated_before", "no answer, the last time at 2026-01-02T03:02:55Z (1m10s ago)"},
		{"a SYN some time ago", Facts{Connections: []calls.Connection{after(link, 70*time.Second)}, Handshakes: handshakes}, "no_answer_before", "(1m10s ago)"},
		{"a call, and one that is refused since", Facts{Events: append(granted[:4:4], late(said(them, pptp.OutgoingCallReply, 4))), Calls: call(way(1), way(1))}, "call_refused working", "(2s ago)"},
		{"refused by TCP after a call", Facts{Events: append(granted[:5:5], closed(calls.Reset)), Refusals: []Refusal{{now, link.Original.Dst, link.Reply.Dst}}}, "server_refused_tcp call_ended", "perhaps this client's"},
		{"another server refused somebody after a call", Facts{Events: append(granted[:5:5], closed(calls.Reset)), Refusals: []Refusal{{now, elsewhere.Original.Dst, link.Reply.Dst}}}, "call_ended", ""},
		{"a connection that the daemon found", Facts{Connections: []calls.Connection{link}, Older: []calls.Tuple{link.Original}}, "older_than_daemon", "no packet of it so far"},
		{"a connection that the daemon found, and no rules", Facts{Connections: []calls.Connection{link}, Older: []calls.Tuple{link.Original}, Rules: RulesMissing}, "rules_missing", ""},
		{"GRE without a flow, and a call that has just begun", Facts{Events: granted, Calls: young(call(way(0), way(4))), Strays: []Stray{shared}}, "no_gre_from_server gre_without_flow", ""},
		{"the same, and no other client is there", Facts{Events: granted, Calls: young(call(way(0), way(4))), Strays: []Stray{stray}}, "gre_without_flow no_gre_from_server", ""},
		{"GRE without a flow from the end that is heard", Facts{Events: granted, Calls: call(way(0), way(4)), Strays: []Stray{ownStray}}, "no_gre_from_server", ""},
		{"none from a server inside", Facts{Events: granted, Calls: outside(call(way(0), way(4)))}, "no_gre_from_server", "blocked on its side, or by a rule before conntrack"},
		{"none from a client outside", Facts{Events: granted, Calls: outside(call(way(4), way(0)))}, "no_gre_from_client", "blocked beyond this gateway"},
		{"rules gone meanwhile", Facts{Events: granted, Calls: call(way(1), way(1)), Rules: RulesMissing}, "working rules_missing", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.facts.Client, tt.facts.Now = client, now
			causes := Judge(tt.facts)
			var codes []string
			for _, c := range causes {
				codes = append(codes, c.Code)
				if c.Text == "" || c.Advice == "" {
					t.Errorf("%s: %+v", c.Code, c)
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(codes, " ")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if !strings.Contains(causes[0].Text, tt.text) {
				t.Errorf("%q, want %q in it", causes[0].Text, tt.text)
			}
		})
	}
}

// TestLast: what is judged is the latest connection, not an earlier one of the same ports.
func TestLast(t *testing.T) {
	other := event(history.ConnectionOpened, nil)
	other.Ends[us].Address = netip.MustParseAddrPort("10.0.0.10:5")
	f := Facts{Events: []history.Event{opened(alg.Read), odd(alg.LimitRate), other, opened(alg.Read), odd(alg.BadMessage)}}
	if got := f.last(); len(got) != 2 || got[1].Anomaly != alg.BadMessage {
		t.Errorf("got %+v", got)
	}
}

// stuck is a call that has carried both ways, and since then gets GRE from one end only.
func stuck(toClient bool) []Call {
	all := call(way(9), way(9))
	all[0].Stuck = Stuck{toClient, now.Add(-20 * time.Second), true}
	return all
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 1400 * time.Millisecond: "1s", 12 * time.Second: "12s", 5*time.Minute + 3*time.Second: "5m3s",
		2*time.Hour + 10*time.Minute: "2h10m", 76*time.Hour + time.Minute: "3d4h",
	} {
		if got := Age(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func TestEveryCauseHasWords(t *testing.T) {
	for _, c := range calls.Causes() {
		if endings[c].words == "" {
			t.Errorf("%v has none", c)
		}
	}
	for _, a := range alg.Anomalies() {
		if _, ok := limitWords[a]; a >= alg.NoPublicID && !ok {
			t.Errorf("%v has none", a)
		}
	}
}

func TestText(t *testing.T) {
	r := New(Facts{
		Client: client, Now: now, Rules: RulesLoaded, Calls: call(way(0), way(4)), Connections: []calls.Connection{link},
		Events: []history.Event{opened(alg.Read), event(history.MessageRead, func(e *history.Event) {
			e.From, e.Error = them, 4
			e.Message = alg.Message{Type: pptp.OutgoingCallReply, Result: 2, Own: alg.Translation{From: 9, To: 9}, Peer: alg.Translation{From: 8, To: 7}}
		})},
	})
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"control connection 10.0.0.10:4000 > 203.0.113.9:1723, NAT: source, from outside 198.51.100.1:4000\n",
		"  2026-01-02T03:03:05Z  203.0.113.9  Outgoing-Call-Reply  9  8 → 7  2 (general error), error 4 (no resource",
		"  GRE to the client: translated, 0 packets, 0 bytes\n  GRE to the other end: translated, 4 packets, 0 bytes\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}
