package status

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"

	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/meter"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Explanation is the answer of /api/explain: a report, and its evidence as text.
type Explanation struct {
	explain.Report
	Evidence string `json:"evidence"`
}

// serveExplain answers why the calls of a client do not work, as far as the daemon knows. One
// viewer at a time is answered.
func (p *Page) serveExplain(w http.ResponseWriter, r *http.Request) {
	client, err := netip.ParseAddr(r.FormValue("client"))
	switch {
	case p.cfg.Explain == nil:
		http.NotFound(w, r)
		return
	case err != nil || !client.Unmap().Is4():
		http.Error(w, fmt.Sprintf("client: %q is not an IPv4 address", r.FormValue("client")), http.StatusBadRequest)
		return
	}
	report, err := p.cfg.Explain(r.Context(), client.Unmap())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, Explanation{report, report.Evidence()})
}

// History is the answer of /api/history: the last hour, in steps.
type History struct {
	SchemaVersion schema.Version `json:"schema_version"`
	Now           schema.Time    `json:"now"`
	Span          schema.Seconds `json:"span_seconds"`
	Samples       []Sample       `json:"samples"` // the oldest first
}

// Sample is one step.
type Sample struct {
	At        schema.Time `json:"time"` // its end
	Calls     int         `json:"calls"`
	OneWay    int         `json:"one_way"`
	Silent    int         `json:"silent"`
	ToClients uint64      `json:"to_clients_bytes_per_second"` // GRE that is counted
	ToServers uint64      `json:"to_servers_bytes_per_second"`
}

func (p *Page) serveHistory(w http.ResponseWriter, _ *http.Request) {
	h := History{Now: schema.At(p.now()), Span: schema.For(meter.Span), Samples: []Sample{}}
	for _, s := range p.cfg.Meter.Past() {
		h.Samples = append(h.Samples, Sample{schema.At(s.At), s.Calls, s.OneWay, s.Silent, whole(s.ToClients), whole(s.ToServers)})
	}
	answer(w, h)
}

// whole rounds a rate.
func whole(rate float64) uint64 { return uint64(math.Round(rate)) }
