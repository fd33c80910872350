package explain

import (
	"cmp"
	"slices"
	"time"

	"pptpalg/alg/calls"
)

// worst are the codes of causes that mean trouble, the worst first: what keeps all calls from
// working, then what makes a call useless, then what keeps one from being set up, then what
// ended one.
var worst = []string{
	"rules_missing", "kernel_helper", "not_queued", "untranslated", "flow_missing",
	"no_gre", "no_gre_from_server", "no_gre_from_client", "gre_without_flow",
	"public_elsewhere", "server_no_answer", "answer_lost", "server_refused_tcp", "closed_early", "not_pptp", "too_many_connections",
	"no_public_id", "id_taken", "limit_calls", "limit_client", "limit_space", "limit_rate",
	"server_refused", "call_refused", "start_unanswered", "call_unanswered", "bad_messages", "early_request", "call_ended",
	"answer_lost_before", "untranslated_before", "no_answer_before",
}

// longAgo is how old the last trace of a client may be for what was wrong to count as trouble.
const longAgo = time.Hour

// badEnds are the causes of a call's end that its ends do not want.
var badEnds = []string{calls.Reset.String(), calls.Expired.String(), calls.Lost.String(), calls.Idle.String()}

// rank is where the first cause stands among the worst, -1 if there is no trouble.
func (r *Report) rank() int {
	if len(r.Causes) == 0 {
		return -1
	}
	code := r.Causes[0].Code
	if code == "call_ended" && (len(r.Ended) == 0 || !slices.Contains(badEnds, r.Ended[len(r.Ended)-1].Cause)) {
		return -1
	}
	if len(r.Calls) == 0 && r.Control != nil && r.Control.Over && r.Now.Sub(r.seen()) > longAgo {
		return -1
	}
	return slices.Index(worst, code)
}

// Trouble reports whether the client has trouble, now or in the last hour.
func (r *Report) Trouble() bool { return r.rank() >= 0 }

// seen is when something of the client was last seen: now, if nothing tells.
func (r *Report) seen() time.Time {
	if r.Control == nil || r.Control.Last.IsZero() {
		return r.Now.Time
	}
	return r.Control.Last.Time
}

// Worst sorts reports of clients that have trouble: the worst first, and of those that are alike
// the latest first.
func Worst(all []Report) {
	slices.SortFunc(all, func(a, b Report) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), b.seen().Compare(a.seen()), a.Client.Compare(b.Client))
	})
}
