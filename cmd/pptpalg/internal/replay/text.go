package replay

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	b := bufio.NewWriter(w)
	r.events(b)
	for _, c := range r.Calls {
		c.text(b)
	}
	r.strays(b)
	r.Totals.text(b)
	if err := b.Flush(); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

// columns aligns columns.
func columns(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// row is a line of the list of events: its cells one after the other, and where each ends.
type row struct {
	text []byte
	ends []int
}

func (l *row) reset() { l.text, l.ends = l.text[:0], l.ends[:0] }

func (l *row) cell(text string) {
	l.text = append(l.text, text...)
	l.end()
}

func (l *row) end() { l.ends = append(l.ends, len(l.text)) }

// cells goes over the cells.
func (l *row) cells() iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		from := 0
		for i, end := range l.ends {
			if !yield(i, l.text[from:end]) {
				return
			}
			from = end
		}
	}
}

// heads are the columns of the list of events.
var heads = []string{"TIME", "PACKET", "DIRECTION", "MESSAGE", "CALL ID", "PEER'S", "RESULT"}

// events writes the list of events. It goes over them twice, and not through columns, which
// would keep all of them in memory as text.
func (r *Report) events(w *bufio.Writer) {
	widths := make([]int, len(heads))
	for i, head := range heads {
		widths[i] = len(head)
	}
	var line row
	for e := range r.Events.All() {
		e.row(&line)
		for i, cell := range line.cells() {
			widths[i] = max(widths[i], utf8.RuneCount(cell))
		}
	}
	line.reset()
	for _, head := range heads {
		line.cell(head)
	}
	line.write(w, widths)
	for e := range r.Events.All() {
		e.row(&line)
		line.write(w, widths)
	}
}

// write writes the cells in their columns. Like all writing to w, it leaves it to Flush to
// tell of errors.
func (l *row) write(w *bufio.Writer, widths []int) {
	for i, cell := range l.cells() {
		_, _ = w.Write(cell)
		if i == len(l.ends)-1 {
			break
		}
		for range widths[i] + 2 - utf8.RuneCount(cell) {
			_ = w.WriteByte(' ')
		}
	}
	_ = w.WriteByte('\n')
}

// row makes a line of the event.
func (e *Event) row(l *row) {
	l.reset()
	l.text = strconv.AppendFloat(l.text, float64(e.time), 'f', 6, 64)
	l.end()
	l.text = strconv.AppendUint(l.text, uint64(e.packet), 10)
	l.end()
	l.text = e.Src().AppendTo(l.text)
	l.text = append(l.text, " > "...)
	l.text = e.Dst().AppendTo(l.text)
	l.end()
	if e.kind == 0 {
		l.cell("(" + e.Note() + ")")
		return
	}
	for _, field := range []string{e.Message(), e.CallID().String(), e.Peer().String(), e.Result().String()} {
		l.cell(field)
	}
}

func (c *Call) text(w io.Writer) {
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
	return (&ID{p.CallID, p.PublicCallID}).String()
}

func (r *Report) strays(w io.Writer) {
	if len(r.Strays) == 0 {
		return
	}
	fmt.Fprintln(w, "\nGRE of no call")
	t := columns(w)
	for _, s := range r.Strays {
		fmt.Fprintf(t, "  %v > %v\tCall ID %v\t%v\tfirst %v", s.Src, s.Dst, s.CallID, s.Traffic, s.First)
		if s.Note != "" {
			fmt.Fprintf(t, "\t%s", s.Note)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

// kinds lists what the other packets are, the most frequent first.
func (t Totals) kinds() string {
	if len(t.Kinds) == 0 {
		return ""
	}
	names := slices.SortedFunc(maps.Keys(t.Kinds), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.Kinds[b], t.Kinds[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", t.Kinds[name], name)
	}
	return " (" + strings.Join(names, ", ") + ")"
}

func (t Totals) text(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %d of control connections, %d GRE, %d other%s", count(t.Packets, "packet"), t.Control, t.GRE, t.Other, t.kinds())
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
