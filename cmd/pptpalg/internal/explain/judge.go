package explain

import (
	"fmt"
	"slices"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
)

// Cause is one explanation of the evidence.
type Cause struct {
	Code   string `json:"code"`   // a word for programs
	Text   string `json:"text"`   // a sentence
	Advice string `json:"advice"` // what to check or do
}

// patience is how long an answer may take before it counts as missing.
const patience = 3 * time.Second

// Judge returns the causes, the most likely one first: at least one. What is now comes before
// what was.
func Judge(f Facts) []Cause {
	j := judge{Facts: &f, seen: f.last()}
	for _, look := range j.looks() {
		look(&j)
	}
	if !j.alive() { // or the connection that works comes first
		j.triedBefore()
	}
	if len(j.causes) == 0 {
		j.add("no_call", "the control connection works, but no call was requested on it", "look at the client's log")
	}
	j.triedBefore()
	return j.causes
}

// looks are what is looked for, in this order. With a call that is up, what is wrong with its GRE comes first, and then
// what else the client tries.
func (j *judge) looks() []func(*judge) {
	if len(j.established()) > 0 {
		return []func(*judge){
			(*judge).letAlone, (*judge).limits, (*judge).traffic, (*judge).unanswered, (*judge).refusedSince, (*judge).works,
			(*judge).oddities, (*judge).rules,
		}
	}
	return []func(*judge){
		(*judge).unanswered, (*judge).unseen, (*judge).refusedTCP, (*judge).letAlone, (*judge).limits, (*judge).refused,
		(*judge).ended, (*judge).silent, (*judge).oddities, (*judge).gone, (*judge).rules,
	}
}

// judge is a judgement under way.
type judge struct {
	*Facts
	seen    []history.Event // of the latest control connection
	sound   []Call          // that are up, and with which nothing is wrong
	several bool            // calls are up
	causes  []Cause
}

func (j *judge) add(code, text, advice string) {
	if !j.has(code) {
		j.causes = append(j.causes, Cause{code, text, advice})
	}
}

func (j *judge) has(code string) bool {
	return slices.ContainsFunc(j.causes, func(c Cause) bool { return c.Code == code })
}

// ago says when something was, and how long ago that is.
func (j *judge) ago(t time.Time) string {
	return fmt.Sprintf("%s (%s ago)", t.UTC().Format(time.RFC3339), Age(j.Now.Sub(t)))
}

// Age writes a time as people say it: 12s, 5m3s, 2h10m, 3d4h.
func Age(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return d.String()
}

// alive reports whether the client has a control connection on which TCP works.
func (j *judge) alive() bool {
	return slices.ContainsFunc(j.Connections, func(c calls.Connection) bool { return !c.Opening && !c.Closing })
}

// unseen explains why the daemon has seen nothing, or nothing of an existing connection.
func (j *judge) unseen() {
	if len(j.Calls) > 0 || len(j.causes) > 0 {
		return
	}
	j.misrouted()
	for _, c := range j.Connections {
		switch {
		case c.Opening, c.Closing, j.known(&c):
		case c.Helper != "":
			j.helper(c.Helper)
		case !c.Translated() && !j.Follows:
			j.untranslated()
		case j.Rules == RulesMissing:
			j.rules()
		case slices.Contains(j.Older, c.Original):
			j.add("older_than_daemon", fmt.Sprintf("the control connection %v is older than the daemon, which has seen no packet of it so far", c.Original),
				"wait for the client's next message, such as an Echo-Request, which comes once a minute: the daemon edits it")
		default:
			j.add("not_queued", fmt.Sprintf("the kernel has the control connection %v, but no packet of it has reached the daemon", c.Original),
				`load the firewall rules: restart the daemon, or use "pptpalg rules load"; check that no rule accepts the packets in table mangle before them, and that no flow offload skips them`)
		}
	}
	if len(j.Connections) > 0 || len(j.seen) > 0 {
		return
	}
	j.rules()
	for _, r := range j.Refusals {
		j.refusal(r)
	}
	if slices.Contains(j.Homes, j.Client) {
		j.add("own_address", fmt.Sprintf("%v is an address of this gateway, and it has no control connection of its own", j.Client),
			`give the address that the client has inside; "pptpalg calls" lists those of calls`)
		return
	}
	j.add("never_seen", fmt.Sprintf("no control connection of %v has passed through this gateway", j.Client),
		"check that the client dials, that its route leads here, and that no firewall blocks TCP port 1723, on the way or here (table raw, FORWARD)")
	j.wrongRoute("")
}

func (j *judge) helper(name string) {
	j.add("kernel_helper", "the kernel's own helper edits the control connection, so the daemon ignores it",
		fmt.Sprintf("remove the rule (-j CT --helper %s) or the sysctl (net.netfilter.nf_conntrack_helper) that attaches it", orPPTP(name)))
}

func orPPTP(name string) string {
	if name == "" {
		return "pptp"
	}
	return name
}

func (j *judge) untranslated() {
	j.add("untranslated", "the control connection passes without NAT, so there is nothing to edit",
		"to hide the client, add masquerading or SNAT for it; if it should not be hidden, check that the way back leads through this gateway, and that GRE (IP protocol 47) may pass both ways")
}

// letAlone explains why a connection that was seen is not edited.
func (j *judge) letAlone() {
	for _, e := range j.seen {
		switch {
		case e.Kind == history.ConnectionOpened && e.Reason == alg.Helped:
			j.helper("")
		case e.Kind == history.ConnectionOpened && e.Reason == alg.Untranslated && !j.read():
			j.untranslated()
		case e.Kind == history.ConnectionOpened && e.Reason == alg.NoConnection:
			j.add("too_many_connections", "too many control connections are on record: this one is not edited", "raise --max-connections")
		case e.Kind == history.AnomalySeen && e.Anomaly == alg.NotPPTPFound:
			j.add("not_pptp", fmt.Sprintf("%s does not speak PPTP on the connection to %v", j.who(e), e.Ends[calls.Responder].Public),
				"check what listens there: another service, or a proxy on the way that intercepts the port")
		}
	}
}

// read reports whether messages of the connection were read.
func (j *judge) read() bool {
	return slices.ContainsFunc(j.seen, func(e history.Event) bool { return e.Kind == history.MessageRead })
}

// limitWords are the limits that were reached, and the flags that change them.
var limitWords = map[alg.Anomaly][2]string{
	alg.NoPublicID:  {"no public Call ID is free towards this server", "end calls, shorten --rest, or give the clients more public addresses"},
	alg.IDTaken:     {"the gateway's own PPTP program chose a Call ID that is in use", "dial again"},
	alg.LimitCalls:  {"too many calls are up", "raise --max-calls"},
	alg.LimitClient: {"this client has too many calls", "raise --max-calls-per-client"},
	alg.LimitSpace:  {"too many Call IDs of this public address are in use or resting towards this server", "raise --max-calls-per-space or shorten --rest"},
	alg.LimitRate:   {"this client requests calls too fast", "raise --max-requests, or find out why it dials so often"},
}

func (j *judge) limits() {
	for _, e := range j.seen {
		if e.Kind != history.AnomalySeen {
			continue
		}
		if words, ok := limitWords[e.Anomaly]; ok {
			j.add(e.Anomaly.String(), "a call request passed unedited: "+words[0], words[1])
		}
	}
}

// refused looks for answers that refuse.
func (j *judge) refused() {
	call, found := j.lastOf(j.seen, []pptp.Type{pptp.OutgoingCallReply, pptp.IncomingCallReply})
	if found && call.Message.Result != pptp.ResultOK {
		j.add("call_refused", "the call was refused by "+j.who(call)+": "+answer(call)+", at "+j.ago(call.Time), "ask the operator of that end: its log says why")
	}
	start, found := j.lastOf(j.seen, []pptp.Type{pptp.StartControlConnectionReply})
	if found && start.Message.Result != pptp.ResultOK {
		j.add("server_refused", "the control connection was refused by "+j.who(start)+": "+answer(start)+", at "+j.ago(start.Time), "ask the operator of that end: its log says why")
	}
}

// refusedSince looks for a call that was refused just now, beside the one that is up.
func (j *judge) refusedSince() {
	up := j.established()
	reply, found := j.lastOf(j.seen, []pptp.Type{pptp.OutgoingCallReply, pptp.IncomingCallReply})
	if found && reply.Time.After(up[len(up)-1].Since) && j.Now.Sub(reply.Time) < recently {
		j.refused()
	}
}

// answer shows a reply's codes in words.
func answer(e history.Event) string {
	text := fmt.Sprintf("%v with result %s", e.Message.Type, e.Message.Type.ResultWords(e.Message.Result))
	if words := pptp.ErrorWords(e.Error); words != "" {
		text += ", error " + words
	}
	return text
}

func (j *judge) established() []Call {
	var up []Call
	for _, c := range j.Calls {
		if c.State == calls.Established {
			up = append(up, c)
		}
	}
	return up
}

// endings are the causes of a call's end, in words, and the messages that tell by whom.
var endings = map[calls.Cause]struct {
	words string
	by    []pptp.Type
}{
	calls.Cleared:      {"was asked to end (Call-Clear-Request)", []pptp.Type{pptp.CallClearRequest}},
	calls.Disconnected: {"was ended (Call-Disconnect-Notify)", []pptp.Type{pptp.CallDisconnectNotify}},
	calls.Refused:      {"was refused", []pptp.Type{pptp.OutgoingCallReply, pptp.IncomingCallReply}},
	calls.Stopped:      {"ended with its control connection (Stop-Control-Connection)", []pptp.Type{pptp.StopControlConnectionRequest, pptp.StopControlConnectionReply}},
	calls.Finished:     {"ended because TCP was closed", nil},
	calls.Reset:        {"ended because TCP was reset", nil},
	calls.Expired:      {"ended because the kernel says that its control connection is closed, or forgot it after a long timeout", nil},
	calls.Lost:         {"ended because its control connection was lost: its public address is gone, or another connection has its ports", nil},
	calls.Replaced:     {"was replaced by another call of the same end with the same Call ID", nil},
	calls.Operator:     {"was ended by the gateway's operator (\"pptpalg calls end\")", nil},
	calls.Idle:         {"ended because it was silent for longer than --idle-timeout", nil},
}

// ended tells of the last call that ended, if none is up.
func (j *judge) ended() {
	if len(j.Calls) > 0 {
		return
	}
	for i, e := range slices.Backward(j.seen) {
		if e.Kind != history.CallClosed {
			continue
		}
		if e.Call.Cause == calls.Refused && j.has("call_refused") {
			return
		}
		how := endings[e.Call.Cause]
		j.carriedLess(&e)
		text := "the last call " + how.words
		if by, found := j.lastOf(j.seen[:i], how.by); found {
			text += ", by " + j.who(by)
			if words := by.Message.Type.ResultWords(by.Message.Result); words != "" {
				text += ": " + answer(by)
			}
		}
		j.add("call_ended", fmt.Sprintf("%s, at %s, after %v", text, j.ago(e.Time), e.Time.Sub(e.Call.Since).Round(time.Second)),
			"if it should not have ended, see the log of the end that ended it")
		return
	}
}

// shortest is how long a call must have lasted to tell anything by what it has not carried.
const shortest = 5 * time.Second

// carriedLess tells of a call that has ended and carried one way only, or nothing: its ends gave it
// up for that.
func (j *judge) carriedLess(e *history.Event) {
	lasted, carried := e.Time.Sub(e.Call.Since), e.Call.Traffic
	known := e.Call.Legs[0].Known && e.Call.Legs[1].Known && carried[0].Counted && carried[1].Counted && !e.Call.Approximate
	if !known || lasted < shortest {
		return
	}
	toClient, toPeer := carried[calls.Initiator].Packets, carried[calls.Responder].Packets
	if e.Ends[calls.Responder].Address.Addr() == j.Client {
		toClient, toPeer = toPeer, toClient
	}
	until := fmt.Sprintf("until the last call ended, at %s, after %v, ", j.ago(e.Time), lasted.Round(time.Second))
	switch {
	case toClient == 0 && toPeer == 0:
		j.add("no_gre", until+"no GRE came from either end", "check that the client's own firewall and the network before this gateway let GRE pass, then the same for the server. "+greAdvice)
	case toClient == 0:
		j.add("no_gre_from_server", fmt.Sprintf("%sno GRE came from the other end; %d packets of the client went there", until, toPeer),
			"ask the provider and whoever runs the server to let GRE pass; check that FORWARD accepts it here. "+greAdvice)
	case toPeer == 0:
		j.add("no_gre_from_client", fmt.Sprintf("%sno GRE came from the client; %d packets went there", until, toClient),
			"check the client's own firewall, the network before this gateway, and the rules in table raw here. "+greAdvice)
	}
}

func (j *judge) lastOf(seen []history.Event, types []pptp.Type) (history.Event, bool) {
	for _, e := range slices.Backward(seen) {
		if e.Kind == history.MessageRead && slices.Contains(types, e.Message.Type) {
			return e, true
		}
	}
	return history.Event{}, false
}

// who names the sender of a message.
func (j *judge) who(e history.Event) string {
	a := e.Ends[e.From].Address.Addr()
	if a == j.Client {
		return fmt.Sprintf("the client %v", a)
	}
	return fmt.Sprintf("the other end %v", a)
}

// silent looks for messages without an answer.
func (j *judge) silent() {
	for _, ask := range []struct {
		request, reply pptp.Type
		code           string
	}{
		{pptp.StartControlConnectionRequest, pptp.StartControlConnectionReply, "start_unanswered"},
		{pptp.OutgoingCallRequest, pptp.OutgoingCallReply, "call_unanswered"},
		{pptp.IncomingCallRequest, pptp.IncomingCallReply, "call_unanswered"},
	} {
		asked, found := j.lastOf(j.seen, []pptp.Type{ask.request})
		if !found || j.Now.Sub(asked.Time) < patience {
			continue
		}
		if reply, answered := j.lastOf(j.seen, []pptp.Type{ask.reply}); !answered || reply.Time.Before(asked.Time) {
			j.add(ask.code, fmt.Sprintf("the %v at %s was not answered", ask.request, j.ago(asked.Time)),
				"see the log of the other end: TCP works, but its PPTP service does not answer")
		}
	}
}

// oddities names what else was strange.
func (j *judge) oddities() {
	for _, e := range j.seen {
		if e.Kind != history.AnomalySeen {
			continue
		}
		switch e.Anomaly {
		case alg.BadMessage, alg.Resynced:
			j.add("bad_messages", "messages were not understood, and passed unread: "+j.who(e)+" sends them", "find out what program that end runs")
		case alg.EarlyRequest:
			j.add("early_request", "a call was requested before the Start exchange had ended, and was not edited", "find out what program the client runs")
		}
	}
}

// recently is how long a client may be silent before it counts as gone.
const recently = 2 * time.Minute

// gone looks for a client that was seen before and is not there now.
func (j *judge) gone() {
	if len(j.seen) == 0 || len(j.Calls) > 0 || len(j.Connections) > 0 {
		return
	}
	if last := j.seen[len(j.seen)-1].Time; j.Now.Sub(last) >= recently {
		j.add("nothing_since", fmt.Sprintf("there is no control connection now, and nothing has been seen since %s", j.ago(last)),
			"if the client is dialling now, its packets do not arrive: check its route, and whether a firewall blocks TCP port 1723, on the way or here (table raw, FORWARD)")
	}
}

// rules looks at the way to the daemon.
func (j *judge) rules() {
	if j.Rules == RulesMissing {
		j.add("rules_missing", "the firewall rules that send control connections to the daemon are not loaded",
			`restart the daemon, or load them with "pptpalg rules load"`)
	}
}
