package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/schema"
	"pptpalg/cmd/pptpalg/internal/status"
)

// checkTimes refuses times in which nothing can have happened.
func (o *eventsOptions) checkTimes(now time.Time) error {
	switch {
	case o.since.time.After(now):
		return usagef("--since: %q is in the future", o.since.text)
	case o.at.time.After(now):
		return usagef("--at: %q is in the future", o.at.text)
	case !o.until.time.IsZero() && !o.since.time.Before(o.until.time):
		return usagef("--until: %q is not after --since %q", o.until.text, o.since.text)
	}
	return nil
}

// memory says on standard error what the answer of a daemon lacks. The zero value knows nothing
// of a daemon, and says nothing of one.
type memory struct {
	out   io.Writer
	since time.Time // the daemon's start: it keeps no event of an earlier one
	early bool      // what was asked begins before that
}

// memory asks the daemon since when it remembers events.
func (o *eventsOptions) memory(cmd *cobra.Command) memory {
	m := memory{out: cmd.ErrOrStderr()}
	if len(o.files) > 0 {
		return m
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
	defer cancel()
	var st status.Status
	if err := (admin.Client{StateDir: o.dir}).Status(ctx, &st); err != nil || st.Sums == nil {
		return m // whatever is wrong, the request for events says so
	}
	m.since = st.Sums.Started.Time
	for _, asked := range []time.Time{o.since.time, o.at.time} {
		m.early = m.early || !asked.IsZero() && asked.Before(m.since)
	}
	return m
}

// begin says that the daemon does not know all that was asked.
func (m memory) begin() {
	if m.early {
		fmt.Fprintf(m.out, "pptpalg: the daemon remembers no event from before %v, when it was started: --file FILE reads an event log\n", schema.At(m.since))
	}
}

// nothing says why no event was printed, which need not mean that there was none.
func (m memory) nothing(o *eventsOptions) {
	if !m.since.IsZero() && !m.early {
		fmt.Fprintf(m.out, "pptpalg: no event found: the daemon remembers the last %d events of each client since %v, when it was started: --file FILE reads an event log\n", history.DefaultPerClient, schema.At(m.since))
	}
	m.network("client", &o.client)
	m.network("server", &o.server)
	m.network("public", &o.publicly)
}

// network says what an end is that was perhaps meant as a network.
func (m memory) network(flag string, end *partyFlag) {
	if n, err := netip.ParsePrefix(end.text); err == nil && n == n.Masked() && !n.IsSingleIP() {
		fmt.Fprintf(m.out, "pptpalg: --%s %v is the address %v with Call ID %d, not a network\n", flag, n, n.Addr(), n.Bits())
	}
}
