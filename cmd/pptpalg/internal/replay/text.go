package replay

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"

	"pptpalg/alg/pptp"
)

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b bytes.Buffer
	t := columns(&b)
	fmt.Fprintln(t, "TIME\tPACKET\tDIRECTION\tMESSAGE\tCALL ID\tPEER'S\tRESULT")
	for _, e := range r.Events {
		e.text(t)
	}
	t.Flush()
	for _, c := range r.Calls {
		c.text(&b)
	}
	r.strays(&b)
	r.Totals.text(&b)
	for line := range bytes.Lines(b.Bytes()) {
		if _, err := fmt.Fprintf(w, "%s\n", bytes.TrimRight(line, " \n")); err != nil {
			return fmt.Errorf("print report: %w", err)
		}
	}
	return nil
}

// columns aligns columns. What it writes to is a buffer, which takes everything.
func columns(b *bytes.Buffer) *tabwriter.Writer { return tabwriter.NewWriter(b, 0, 0, 2, ' ', 0) }

func (e *Event) text(w io.Writer) {
	if e.Message == "" {
		fmt.Fprintf(w, "%.6f\t%d\t%v > %v\t(%s)\t\t\t\n", e.Time, e.Packet, e.Src, e.Dst, e.Note)
		return
	}
	fmt.Fprintf(w, "%.6f\t%d\t%v > %v\t%s\t%v\t%v\t%v\n", e.Time, e.Packet, e.Src, e.Dst, e.Message, e.CallID, e.Peer, e.Result)
}

func (c *Call) text(w *bytes.Buffer) {
	fmt.Fprintf(w, "\nCall %d on %v > %v\n", c.Number, c.Control.Src, c.Control.Dst)
	t := columns(w)
	fmt.Fprintf(t, "  PNS\t%v\tCall ID %s\tGRE to it: %v\n", address(c.PNS), callID(c.PNS), c.ToPNS)
	fmt.Fprintf(t, "  PAC\t%v\tCall ID %s\tGRE to it: %v\n", address(c.PAC), callID(c.PAC), c.ToPAC)
	t.Flush()
	fmt.Fprintf(w, "  requested %v, %s\n", c.Began, c.fate())
}

func (c *Call) fate() string {
	if c.Ended == nil {
		return fmt.Sprintf("%s when the capture ends", c.State)
	}
	s := fmt.Sprintf("%s; ended %v: %s, %s", c.State, c.Ended.Moment, c.Ended.Cause, c.Ended.Words)
	if c.Ended.By != "" {
		s += ", by " + c.Ended.By
	}
	return s
}

func (m Moment) String() string { return fmt.Sprintf("at %.6f (packet %d)", m.Time, m.Packet) }

func (t Traffic) String() string {
	return fmt.Sprintf("%s, %s", count(t.Packets, "packet"), count(t.Bytes, "byte"))
}

func count(n int, what string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func address(p Party) string { return changed(p.Address, p.PublicAddress) }

func changed(from, to netip.Addr) string {
	switch {
	case !from.IsValid():
		return "-"
	case from != to:
		return fmt.Sprintf("%v → %v", from, to)
	}
	return from.String()
}

func callID(p Party) string {
	if p.CallID == nil {
		return "-"
	}
	return (&ID{Seen: *p.CallID, Public: *p.PublicCallID}).String()
}

func (r *Report) strays(w *bytes.Buffer) {
	if len(r.Strays) == 0 {
		return
	}
	fmt.Fprintln(w, "\nGRE of no call")
	t := columns(w)
	for _, s := range r.Strays {
		fmt.Fprintf(t, "  %v > %v\tCall ID %v\t%v\tfirst %v\t%s\n", s.Src, s.Dst, pptp.CallID(s.CallID), s.Traffic, s.First, s.Note)
	}
	t.Flush()
}

func (t Totals) text(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %d of control connections, %d GRE, %d other", count(t.Packets, "packet"), t.Control, t.GRE, t.Other)
	for _, more := range []struct {
		n    int
		what string
	}{
		{t.Fragments, "IP fragments (not reassembled, so not read)"},
		{t.Malformed, "malformed"},
		{t.Cut, "cut by the snap length (read as far as they go)"},
		{t.Behind, "not read because earlier segments are missing"},
		{t.Written, "written"},
	} {
		if more.n > 0 {
			fmt.Fprintf(w, ", %d %s", more.n, more.what)
		}
	}
	fmt.Fprintln(w)
}
