package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"pptpalg/cmd/pptpalg/internal/explain"
)

func (s *Server) serveExplain(w http.ResponseWriter, r *http.Request) {
	client, err := netip.ParseAddr(r.FormValue("client"))
	if err != nil {
		http.Error(w, fmt.Sprintf("client: %q is not an address", r.FormValue("client")), http.StatusBadRequest)
		return
	}
	var report explain.Report
	err = s.explaining.do(r.Context(), func() (err error) {
		report, err = s.explain(r.Context(), client.Unmap())
		return err
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// A reader that went away is the only way for this to fail.
	_ = json.NewEncoder(w).Encode(report)
}

// Paced returns an explain that does one piece of work at a time, with a pause after each that
// is in proportion, whatever the number of those who ask.
func Paced(do func(context.Context, netip.Addr) (explain.Report, error)) func(context.Context, netip.Addr) (explain.Report, error) {
	p := newPace()
	return func(ctx context.Context, client netip.Addr) (report explain.Report, _ error) {
		err := p.do(ctx, func() (err error) {
			report, err = do(ctx, client)
			return err
		})
		return report, err
	}
}

func (s *Server) serveExplainAll(w http.ResponseWriter, r *http.Request) {
	var all []explain.Report
	err := s.explaining.do(r.Context(), func() (err error) {
		all, err = s.explainAll(r.Context())
		return err
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// A reader that went away is the only way for this to fail.
	_ = json.NewEncoder(w).Encode(append([]explain.Report{}, all...))
}

// ExplainAll asks the daemon which clients have trouble, and why: the worst comes first.
func (c Client) ExplainAll(ctx context.Context) (all []explain.Report, err error) {
	body, err := c.get(ctx, "/explain/all")
	if err != nil {
		return nil, fmt.Errorf("explain all clients: %w", err)
	}
	if err := c.read(ctx, body, &all); err != nil {
		return nil, fmt.Errorf("read the daemon's explanations: %w", err)
	}
	return all, nil
}

// Explain asks the daemon why calls of an inside address do not work.
func (c Client) Explain(ctx context.Context, client netip.Addr) (explain.Report, error) {
	var report explain.Report
	body, err := c.get(ctx, "/explain?client="+url.QueryEscape(client.String()))
	if err != nil {
		return report, fmt.Errorf("explain %v: %w", client, err)
	}
	if err := c.read(ctx, body, &report); err != nil {
		return explain.Report{}, fmt.Errorf("read the daemon's explanation: %w", err)
	}
	return report, nil
}
