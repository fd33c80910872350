package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// metrics are the daemon's counters. What is state rather than an event is read
// from the call table when it is scraped. No label carries an address or an ID.
type metrics struct {
	opened      prometheus.Counter
	closed      *prometheus.CounterVec
	messages    *prometheus.CounterVec
	packets     *prometheus.CounterVec
	anomalies   *prometheus.CounterVec
	verdict     prometheus.Histogram
	errors      *prometheus.CounterVec
	overruns    prometheus.Counter
	queueErrors prometheus.Counter
	panics      prometheus.Counter
	repairs     *prometheus.CounterVec

	journalErrors prometheus.Counter
	dropped       prometheus.Counter
}

// The operations that pptpalg_conntrack_errors_total tells apart.
const (
	opGet    = "get"
	opList   = "list"
	opCreate = "create"
	opDelete = "delete"
)

// The kinds that pptpalg_reconcile_repairs_total tells apart.
const (
	repairCreated = "gre_created"
	repairRevived = "control_revived"
)

func newMetrics(reg prometheus.Registerer, d *Daemon, version string) *metrics {
	m := &metrics{
		opened:      counter("calls_opened_total", "Calls requested by a control message that was edited or read."),
		closed:      counters("calls_closed_total", "Calls ended, by what ended them.", "reason"),
		messages:    counters("control_messages_total", "PPTP control messages read, by RFC 2637 type.", "type"),
		packets:     counters("packets_total", "Packets taken from the queue, by verdict and its reason.", "verdict", "reason"),
		anomalies:   counters("anomalies_total", "Oddities in control streams, by kind; none of them stops a packet.", "kind"),
		errors:      counters("conntrack_errors_total", "Requests to the kernel's conntrack that failed, by operation.", "operation"),
		overruns:    counter("queue_overruns_total", "Times the kernel reported packets dropped because the queue's socket buffer was full."),
		queueErrors: counter("queue_errors_total", "Errors of the queue that were survived: failed receives and refused verdicts."),
		panics:      counter("panics_total", "Packets accepted unedited because the editor failed on them."),
		repairs:     counters("reconcile_repairs_total", "Conntrack entries made again because somebody had deleted them, by kind.", "kind"),

		journalErrors: counter("journal_errors_total", "Writes to the journal that failed; calls of that time are not known after a restart."),
		dropped:       counter("queue_dropped_total", "Packets that the kernel dropped because too many waited for a verdict; TCP sends them again. Counted where the daemon may read /proc/net/netfilter."),
		verdict: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "verdict_seconds",
			Help:    "Time from a packet's receipt to its verdict, kernel requests included.",
			Buckets: prometheus.ExponentialBuckets(2e-6, 2, 16), // 2 µs to 65 ms
		}),
	}
	m.fill()
	reg.MustRegister(m.opened, m.closed, m.messages, m.packets, m.anomalies, m.errors, m.overruns, m.queueErrors, m.panics, m.verdict, m.repairs, m.journalErrors, m.dropped)
	reg.MustRegister(
		gauge("calls", "Calls requested, answered or established.", d.calls),
		gauge("control_connections", "Control connections that are being edited.", d.edited),
		gauge("control_connections_untouched", "Control connections known and let alone: not translated, not PPTP, or edited by the kernel's helper.", d.untouched),
		gauge("call_ids_resting", "Public Call IDs that were freed and may not be used again yet.", d.resting),
		gauge("conntrack_entries_missing", "GRE entries that the kernel lacked at the last comparison; they are made again.", d.missing),
		buildInfo(version),
	)
	return m
}

const namespace = "pptpalg"

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func gauge(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, read)
}

func buildInfo(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the label tells the version.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
}

// fill makes the series of every closed set, so that a rate over one that has not
// counted yet is 0 and not absent.
func (m *metrics) fill() {
	for _, c := range conntrack.Causes() {
		m.closed.WithLabelValues(c.String())
	}
	for _, t := range pptp.Types() {
		m.messages.WithLabelValues(t.String())
	}
	for _, a := range alg.Anomalies() {
		m.anomalies.WithLabelValues(a.String())
	}
	for _, kind := range []string{repairCreated, repairRevived} {
		m.repairs.WithLabelValues(kind)
	}
	for _, op := range []string{opGet, opList, opCreate, opDelete} {
		m.errors.WithLabelValues(op)
	}
}

// outcome counts what the editor said of a packet.
func (m *metrics) outcome(out alg.Outcome) {
	m.packets.WithLabelValues(out.Verdict.String(), out.Reason.String()).Inc()
	for _, message := range out.Messages {
		m.messages.WithLabelValues(message.Type.String()).Inc()
	}
	for _, a := range out.Anomalies {
		m.anomalies.WithLabelValues(a.String()).Inc()
	}
}

func (m *metrics) took(since time.Time) { m.verdict.Observe(time.Since(since).Seconds()) }
