package explain

import (
	"bytes"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b bytes.Buffer
	for i, c := range r.Causes {
		fmt.Fprintf(&b, "%d. %s (%s)\n   → %s\n", i+1, c.Text, c.Code, c.Advice)
	}
	if r.DataPath != Unknown {
		b.WriteString("\n" + r.Evidence())
	}
	for line := range bytes.Lines(b.Bytes()) {
		if _, err := fmt.Fprintf(w, "%s\n", bytes.TrimRight(line, " \n")); err != nil {
			return fmt.Errorf("print report: %w", err)
		}
	}
	return nil
}

// Evidence is what the causes were found by, as text.
func (r *Report) Evidence() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v: GRE is translated by %s; firewall rules: %s\n", r.Client, translators[r.DataPath], r.Rules)
	r.control(&b)
	r.messages(&b)
	r.calls(&b)
	return b.String()
}

// translators name who translates, by data path.
var translators = map[string]string{"kernel": "the kernel", "queue": "the daemon"}

func (r *Report) control(b *bytes.Buffer) {
	c := r.Control
	if c == nil {
		fmt.Fprintln(b, "no control connection was seen")
		return
	}
	fmt.Fprintf(b, "control connection %v > %v, NAT: %s", c.Src, c.Dst, c.NAT)
	if c.Src != c.PublicSrc {
		fmt.Fprintf(b, ", from outside %v", c.PublicSrc)
	}
	if c.Dst != c.RealDst {
		fmt.Fprintf(b, ", to %v", c.RealDst)
	}
	if !c.Edited {
		fmt.Fprintf(b, "; not edited: %s", c.Reason)
	}
	if c.Over {
		b.WriteString("; ended")
	}
	if c.Over && !c.Last.IsZero() {
		fmt.Fprintf(b, ", last seen at %s (%s ago)", c.Last.Format(time.RFC3339), Age(r.Now.Sub(c.Last.Time)))
	}
	fmt.Fprintln(b)
}

func (r *Report) messages(b *bytes.Buffer) {
	if len(r.Messages) == 0 {
		return
	}
	fmt.Fprintln(b, "\nlast messages, with Call IDs before and after editing")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, m := range r.Messages {
		fmt.Fprintf(t, "  %s\t%v\t%s\t%v\t%v\t%s\n", m.Time.Format(time.RFC3339), m.From, m.Type, m.CallID, m.Peer, m.codes())
	}
	t.Flush()
}

func (m *Message) codes() string {
	if m.Error == "" {
		return m.Result
	}
	return m.Result + ", error " + m.Error
}

func (i *ID) String() string {
	switch {
	case i == nil:
		return "-"
	case i.From == i.To:
		return i.From.String()
	}
	return fmt.Sprintf("%v → %v", i.From, i.To)
}

func (r *Report) calls(b *bytes.Buffer) {
	for _, c := range r.Calls {
		fmt.Fprintf(b, "\ncall %d, %s since %s (%s)\n  GRE to the client: %v\n  GRE to the other end: %v\n",
			c.Number, c.State, c.Since.Format(time.RFC3339), Age(r.Now.Sub(c.Since.Time)), c.ToClient, c.ToPeer)
	}
	for _, e := range r.Ended {
		fmt.Fprintf(b, "\ncall %d ended at %s (%s ago) after %.0f s: %s\n", e.Number, e.Time.Format(time.RFC3339), Age(r.Now.Sub(e.Time.Time)), e.Seconds, e.Cause)
	}
}

func (g GRE) String() string {
	how := "translated"
	if !g.Translated {
		how = "not translated"
	}
	if g.Packets == nil {
		return how + ", not counted"
	}
	packets := "packets"
	if *g.Packets == 1 {
		packets = "packet"
	}
	return fmt.Sprintf("%s, %d %s, %d bytes", how, *g.Packets, packets, *g.Bytes)
}
