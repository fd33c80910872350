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
		http.Error(w, "client: "+err.Error(), http.StatusBadRequest)
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

// Explain asks the daemon why calls of an inside address do not work.
func (c Client) Explain(ctx context.Context, client netip.Addr) (explain.Report, error) {
	var report explain.Report
	body, err := c.get(ctx, "/explain?client="+url.QueryEscape(client.String()))
	if err != nil {
		return report, fmt.Errorf("explain %v: %w", client, err)
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&report); err != nil {
		return explain.Report{}, fmt.Errorf("read the daemon's explanation: %w", err)
	}
	return report, nil
}
