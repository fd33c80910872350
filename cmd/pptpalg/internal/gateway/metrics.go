package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/gre"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/history"
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
	overruns    *prometheus.CounterVec
	queueErrors prometheus.Counter
	panics      prometheus.Counter
	repairs     *prometheus.CounterVec
	rulesLost   prometheus.Counter

	journalErrors prometheus.Counter
	dropped       *prometheus.CounterVec
	unread        *prometheus.CounterVec
	refused       prometheus.Counter

	grePackets, greBytes prometheus.Counter // that calls have carried
	counted              prometheus.Gauge   // calls of which that is known
	strays               prometheus.Gauge   // flows of GRE that is no call's

	// Series of the above, so that none is looked up by its text for each packet.
	packet  map[ending]prometheus.Counter
	message map[pptp.Type]prometheus.Counter
	cause   map[calls.Cause]prometheus.Counter
}

// The operations that pptpalg_conntrack_errors_total tells apart.
const (
	opGet    = "get"
	opList   = "list"
	opCreate = "create"
	opDelete = "delete"
	opLeave  = "leave"
	opListen = "listen"
)

// The kinds that pptpalg_reconcile_repairs_total tells apart.
const (
	repairCreated = "gre_created"
	repairRevived = "control_revived"
)

func newMetrics(reg prometheus.Registerer, d *Gateway, version string) *metrics {
	m := &metrics{
		packet:      make(map[ending]prometheus.Counter),
		message:     make(map[pptp.Type]prometheus.Counter),
		cause:       make(map[calls.Cause]prometheus.Counter),
		opened:      counter("calls_opened_total", "Calls requested by a control message that was edited or read."),
		closed:      counters("calls_closed_total", "Calls ended, by the reason.", "reason"),
		messages:    counters("control_messages_total", "PPTP control messages read, by RFC 2637 type.", "type"),
		packets:     counters("packets_total", "Packets taken from the queue, by verdict and its reason.", "verdict", "reason"),
		anomalies:   counters("anomalies_total", "Anomalies in control connections, by kind; none of them stops a packet.", "kind"),
		errors:      counters("conntrack_errors_total", "Requests to the kernel's conntrack that failed, by operation.", "operation"),
		overruns:    counters("queue_overruns_total", "Times that the kernel reported dropped packets because a queue's socket buffer was full.", "queue"),
		queueErrors: counter("queue_errors_total", "Queue errors after which the daemon continued: failed receives and refused verdicts."),
		panics:      counter("panics_total", "Packets accepted unedited because the editor failed on them."),
		repairs:     counters("reconcile_repairs_total", "Conntrack entries created again because another program had deleted them, by kind.", "kind"),

		rulesLost:     counter("rules_lost_total", "Times that the firewall rules were found missing, because another program had removed or changed them."),
		journalErrors: counter("journal_errors_total", "Writes to the journal that failed; the calls that they were for may not be known after a restart."),
		dropped:       counters("queue_dropped_total", "Packets that the kernel dropped because too many waited for a verdict. Counted where the daemon may read /proc/net/netfilter.", "queue"),
		unread:        counters("queue_user_dropped_total", "Packets that the kernel dropped because a queue's socket buffer was full. Counted where the daemon may read /proc/net/netfilter.", "queue"),
		refused:       counter("control_connections_refused_total", "Segments that passed unedited because too many control connections were on record (--max-connections)."),
		grePackets:    counter("calls_gre_packets_total", "GRE packets that the calls of pptpalg_calls_counted have carried, both ways, as of the last audit."),
		greBytes:      counter("calls_gre_bytes_total", "Bytes of GRE that the calls of pptpalg_calls_counted have carried, both ways, IP headers included, as of the last audit."),
		counted:       counted("calls_counted", "Calls whose GRE is counted: by the kernel if net.netfilter.nf_conntrack_acct was 1 when they were set up."),
		strays:        counted("gre_unmatched_flows", "GRE flows that belong to no call, towards public addresses of calls or between the ends of their control connections, as of the last listing of the kernel's entries, at most half a minute ago; 0 if the daemon translates."),
		verdict: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "verdict_seconds",
			Help:    "Time from a packet's receipt to its verdict, kernel requests included.",
			Buckets: prometheus.ExponentialBuckets(2e-6, 2, 16), // 2 µs to 65 ms
		}),
	}
	m.fill()
	for _, r := range gre.Reasons() {
		reg.MustRegister(d.grePackets(r))
	}
	reg.MustRegister(m.opened, m.closed, m.messages, m.packets, m.anomalies, m.errors, m.overruns, m.queueErrors, m.panics, m.verdict, m.repairs, m.rulesLost, m.journalErrors, m.dropped)
	reg.MustRegister(m.unread, m.refused, m.grePackets, m.greBytes, m.counted, m.strays)
	d.registerGauges(reg)
	d.registerBeside(reg)
	d.registerFigures(reg)
	d.registerCluster(reg)
	reg.MustRegister(
		gauge("calls", "Calls requested, answered or established.", d.calls),
		gauge("control_connections", "Control connections that are being edited.", d.edited),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Name: "control_connections_evicted_total",
			Help: "Control connections without calls that were forgotten to make room for others, because too many were on record, in total or of one client (--max-connections).",
		}, d.evicted),
		gauge("control_connections_untouched", "Control connections known and ignored: not translated, not PPTP, or edited by the kernel's helper.", d.untouched),
		gauge("call_ids_resting", "Public Call IDs that were freed and may not be used again yet.", d.resting),
		gauge("conntrack_entries_missing", "GRE entries that the kernel lacked at the last audit; they are created again.", d.missing),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Name: "fragmentation_needed_total",
			Help: "ICMP errors of routers and hosts that a packet of a call is larger than an MTU and must not be fragmented, as far as they visit the daemon: if the kernel translates, about 10 a second at most. Those of the gateway itself are not counted.",
		}, d.tooBigs.total),
		gauge("gre_flows", "GRE flows, two for an established call, that the daemon translates; 0 if the kernel does.", d.greFlows),
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

// counted is a gauge that audits set.
func counted(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
}

func gauge(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, read)
}

func buildInfo(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the label is the version.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
}

// fill makes the series of every closed set, so that a rate over one that has not
// counted yet is 0 and not absent.
func (m *metrics) fill() {
	for _, c := range calls.Causes() {
		m.cause[c] = m.closed.WithLabelValues(c.String())
	}
	for _, t := range pptp.Types() {
		m.message[t] = m.messages.WithLabelValues(t.String())
	}
	for _, a := range alg.Anomalies() {
		m.anomalies.WithLabelValues(a.String())
	}
	for _, kind := range []string{repairCreated, repairRevived} {
		m.repairs.WithLabelValues(kind)
	}
	for _, op := range []string{opGet, opList, opCreate, opDelete, opLeave, opListen} {
		m.errors.WithLabelValues(op)
	}
	for _, queue := range []string{controlQueue, greQueue} {
		m.overruns.WithLabelValues(queue)
		m.dropped.WithLabelValues(queue)
		m.unread.WithLabelValues(queue)
	}
	for _, e := range troubled {
		m.series(e)
	}
}

// troubled are endings that operators watch for.
var troubled = []ending{
	{alg.Accept, alg.Truncated}, {alg.Accept, alg.Malformed}, {alg.Accept, alg.Failed},
	{alg.Accept, alg.Again}, {alg.Edited, alg.Again}, {alg.Drop, alg.Gap}, {alg.Accept, alg.Helped},
}

// outcome counts what the editor said of a packet.
func (m *metrics) outcome(out alg.Outcome) {
	m.series(ending{out.Verdict, out.Reason}).Inc()
	for _, message := range out.Messages {
		m.message[message.Type].Inc()
	}
	for _, a := range out.Anomalies {
		m.anomalies.WithLabelValues(a.String()).Inc()
	}
}

// ending is what a packet came to.
type ending struct {
	verdict alg.Verdict
	reason  alg.Reason
}

func (m *metrics) series(e ending) prometheus.Counter {
	c := m.packet[e]
	if c == nil {
		c = m.packets.WithLabelValues(e.verdict.String(), e.reason.String())
		m.packet[e] = c
	}
	return c
}

// took notes how long packets waited for their verdicts.
func (m *metrics) took(d time.Duration, packets int) {
	for range packets {
		m.verdict.Observe(d.Seconds())
	}
}

// grePackets counts what the daemon made of GRE packets, or what the kernel could not
// translate.
func (g *Gateway) grePackets(r gre.Reason) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Name: "gre_packets_total",
		Help:        "GRE packets that went through the daemon, and ICMP errors about them, by outcome. If the kernel translates, there are none, and no_flow counts the packets of pptpalg_gre_unmatched_flows.",
		ConstLabels: prometheus.Labels{"reason": r.String()},
	}, func() float64 {
		switch v := g.visits(); {
		case v != nil:
			return float64(v.Count(r))
		case r == gre.NoFlow:
			return float64(g.strays.packets.Load())
		}
		return 0
	})
}

func (g *Gateway) greFlows() float64 {
	if v := g.visits(); v != nil {
		return float64(v.Flows())
	}
	return 0
}

// tell counts calls.
func (m *metrics) tell(events []calls.Event) {
	for i := range events {
		switch e := &events[i]; e.Kind {
		case calls.Opened:
			m.opened.Inc()
		case calls.Closed:
			m.cause[e.Cause].Inc()
		}
	}
}

// show has the metrics tell what calls have carried.
func (m *metrics) show(t *history.Tally) {
	m.grePackets.Add(float64(t.Grown.Packets))
	m.greBytes.Add(float64(t.Grown.Bytes))
}
