package status

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/cmd/pptpalg/internal/meter"
)

// figures are the daemon's metrics, so that the page always agrees with them. A series with
// labels counts under the metric's name, and under "name/value" for the value of each
// label.
type figures map[string]float64

func read(g prometheus.Gatherer) figures {
	families, _ := g.Gather() // what fails is missing
	f := make(figures)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			f[family.GetName()] += v
			for _, l := range m.GetLabel() {
				f[family.GetName()+"/"+l.GetValue()] += v
			}
		}
	}
	return f
}

// sum adds up figures. What is NaN, the daemon does not know.
func (f figures) sum(names ...string) (sum float64) {
	for _, name := range names {
		if v := f["pptpalg_"+name]; !math.IsNaN(v) {
			sum += v
		}
	}
	return sum
}

func (f figures) count(names ...string) uint64 { return uint64(f.sum(names...)) }

// started is when the daemon was started, zero if it is not known.
func (f figures) started() time.Time {
	seconds := f["process_start_time_seconds"]
	if seconds == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(seconds * 1000)).UTC()
}

// Note is something that the daemon has counted since it was started, and that should not
// be: what it is, and what to do about it.
type Note struct {
	Count uint64 `json:"count"`
	Text  string `json:"text"`
}

// unedited are requests that passed unedited because there was no public ID or a limit was
// reached.
var unedited = []string{
	"anomalies_total/no_public_id", "anomalies_total/limit_calls", "anomalies_total/limit_client",
	"anomalies_total/limit_space", "anomalies_total/limit_rate",
}

// noted are the counters that make a Note. The alerts of deploy/prometheus say more of each.
var noted = []struct {
	text  string
	names []string
}{
	{"call requests passed unedited because of a limit; the log names the clients (--max-…)", unedited},
	{"packets were dropped by the kernel before the daemon saw them (--queue-length, --queue-buffer)", []string{"queue_dropped_total", "queue_user_dropped_total"}},
	{"times the queue's socket buffer was full (--queue-buffer)", []string{"queue_overruns_total"}},
	{"times the firewall rules went missing; the log says when (pptpalg_rules_lost_total)", []string{"rules_lost_total"}},
	{"packets were ignored because the kernel's own PPTP helper edits their connections (pptpalg check)", []string{"packets_total/kernel_helper"}},
	{"requests to the kernel's conntrack failed; the log has its errors", []string{"conntrack_errors_total"}},
	{"conntrack entries of calls were deleted by another program, and created again", []string{"reconcile_repairs_total"}},
	{"segments passed unedited because of too many control connections (--max-connections)", []string{"control_connections_refused_total"}},
	{"receives or verdicts of the queue failed; the log has the kernel's errors", []string{"queue_errors_total"}},
	{"writes to the journal failed; a restart would lose those calls", []string{"journal_errors_total"}},
	{"packets passed unedited because the editor failed on them; please report the stack in the log", []string{"panics_total"}},
}

func (f figures) notes() []Note {
	notes := []Note{}
	for _, n := range noted {
		if count := f.count(n.names...); count > 0 {
			notes = append(notes, Note{count, n.text})
		}
	}
	return notes
}

// The shares from which on something is nearly full, as for the alerts.
const (
	spaceFull = 0.8
	tableFull = 0.9
)

// problems says what is wrong now, beside the daemon's own health.
func (f figures) problems() (all []string) {
	if missing := f.count("conntrack_entries_missing"); missing > 0 {
		all = append(all, fmt.Sprintf("%d GRE entries of calls are missing in the kernel; the daemon tries to create them again every two seconds", missing))
	}
	if whole, known := f["pptpalg_journal_complete"]; known && whole == 0 {
		all = append(all, "the journal cannot be written: check that the state directory has room and that its disk answers; until then a restart may lose calls")
	}
	if used := f.sum("call_id_space_used_ratio"); used > spaceFull {
		all = append(all, fmt.Sprintf("%.0f %% of the Call IDs of one public address are taken towards one server: spread the clients over more public addresses", used*100))
	}
	if missing := f.count("fastpath_interfaces_missing"); missing > 0 && f.count("fastpath_wanted") > 0 {
		all = append(all, fmt.Sprintf("the fast path is missing on %d interfaces: \"pptpalg fastpath load\" attaches it", missing))
	}
	entries, limit := f.sum("conntrack_table_entries"), f.sum("conntrack_table_limit")
	if limit > 0 && entries/limit > tableFull {
		all = append(all, fmt.Sprintf("the kernel's conntrack table is %.0f %% full: raise net.netfilter.nf_conntrack_max", entries/limit*100))
	}
	return all
}

// problems says what is wrong now with the gateway, and then with its calls.
func (s *snapshot) problems(most Limits) []string {
	all := s.figures.problems()
	sums := s.sums(most)
	if sums.CallsUsed > tableFull {
		all = append(all, fmt.Sprintf("%.0f %% of the maximum number of calls are up: raise --max-calls", sums.CallsUsed*100))
	}
	if sums.LinksUsed > tableFull {
		all = append(all, fmt.Sprintf("%.0f %% of the maximum number of control connections are on record: raise --max-connections", sums.LinksUsed*100))
	}
	for _, p := range []struct {
		kind      meter.Kind
		one, many string
	}{
		{meter.OneWay, "1 call carries traffic one way only", "%d calls carry traffic one way only"},
		{meter.Silent, "1 call has never carried any traffic", "%d calls have never carried any traffic"},
	} {
		n := s.hows[p.kind]
		if n == 0 {
			continue
		}
		text := p.one
		if n > 1 {
			text = fmt.Sprintf(p.many, n)
		}
		r := s.examples[p.kind]
		all = append(all, fmt.Sprintf("%s: %s; \"pptpalg explain %v\" says why", text, r.missing(n), r.client.Address))
	}
	return all
}

// missing says of a call that does not carry what is missing, as an example if there are others.
func (r *row) missing(calls int) string {
	as := ""
	if calls > 1 {
		as = "for example, "
	}
	from, to := r.server.Address, r.client.Address
	switch {
	case r.how.Kind == meter.Silent:
		return fmt.Sprintf("%sno GRE has come from %v or %v", as, to, from)
	case r.how.ToPNS != (r.client == &r.PNS):
		from, to = to, from
	}
	return fmt.Sprintf("%sno GRE arrives from %v for %v", as, from, to)
}
