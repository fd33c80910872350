package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/pptpalg/internal/admin"
)

// watcher shows the call table repeatedly.
type watcher struct {
	calls    func(context.Context) ([]admin.Call, error)
	out      io.Writer
	interval time.Duration
	sort     order
	filter   string

	before map[uint64]sample // of calls by their number, when the last table was shown
}

// order is what the table is sorted by.
type order string

// compares are the orders: the most interesting calls come first.
var compares = map[order]func(a, b *line) int{
	"age":    func(a, b *line) int { return b.since.Compare(a.since) },
	"client": func(a, b *line) int { return a.client.Compare(b.client) },
	"server": func(a, b *line) int { return a.server.Compare(b.server) },
	"state":  func(a, b *line) int { return cmp.Compare(a.state, b.state) },
	"rate":   func(a, b *line) int { return cmp.Compare(b.rates.bytes(), a.rates.bytes()) },
}

func orders() []string {
	var all []string
	for o := range maps.Keys(compares) {
		all = append(all, string(o))
	}
	slices.Sort(all)
	return all
}

// Set, String and Type are for the flag.
func (o *order) Set(s string) error {
	if _, ok := compares[order(s)]; !ok {
		return fmt.Errorf("%q is none of %s", s, strings.Join(orders(), ", "))
	}
	*o = order(s)
	return nil
}

func (o *order) String() string { return string(*o) }
func (o *order) Type() string   { return "order" }

// The control sequences of ECMA-48 that the live table needs, and xterm's second screen.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	endOfLine   = "\x1b[K"
	endOfScreen = "\x1b[J"
)

// Run shows a table at each interval until ctx is done. It leaves a terminal as it was. If
// no daemon answers, that is an error; on a terminal Run shows the error and waits for the
// daemon.
func (w *watcher) Run(ctx context.Context) (err error) {
	if w.interval <= 0 {
		return fmt.Errorf("read --interval: %v is not above 0", w.interval)
	}
	_, _, terminal := w.size()
	show := w.print
	if terminal {
		show = w.draw
		if _, err := io.WriteString(w.out, enterScreen); err != nil {
			return fmt.Errorf("draw calls: %w", err)
		}
		defer func() { _, _ = io.WriteString(w.out, leaveScreen) }()
	}
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		calls, err := w.calls(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := show(calls, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// print adds a table to the output.
func (w *watcher) print(calls []admin.Call, err error) error {
	if err != nil {
		return err
	}
	now := time.Now()
	text := fmt.Sprintf("%s\n%s\n", now.UTC().Format(time.RFC3339), strings.Join(w.table(calls, now), "\n"))
	if _, err := io.WriteString(w.out, text); err != nil {
		return fmt.Errorf("print calls: %w", err)
	}
	return nil
}

// draw replaces what the terminal shows.
func (w *watcher) draw(calls []admin.Call, err error) error {
	columns, rows, _ := w.size()
	now := time.Now()
	lines := []string{fmt.Sprintf("%s   %d calls   sorted by %s   Ctrl-C ends", now.Format(time.DateTime), len(calls), w.sort)}
	if w.filter != "" {
		lines[0] += fmt.Sprintf("   filter %q", w.filter)
	}
	if err != nil {
		lines = append(lines, err.Error())
	} else {
		lines = append(lines, w.table(calls, now)...)
	}
	if _, err := io.WriteString(w.out, screen(lines, columns, rows)); err != nil {
		return fmt.Errorf("draw calls: %w", err)
	}
	return nil
}

// screen fits lines to a terminal. It cuts long lines and never wraps them.
func screen(lines []string, columns, rows int) string {
	if len(lines) > rows && rows > 1 {
		more := len(lines) - rows + 1
		lines = append(lines[:rows-1:rows-1], fmt.Sprintf("… %d more", more))
	}
	var b strings.Builder
	b.WriteString(home)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if r := []rune(l); len(r) > columns {
			l = string(r[:columns])
		}
		b.WriteString(l + endOfLine)
	}
	b.WriteString(endOfScreen)
	return b.String()
}

// size returns the terminal's, false if the output is none.
func (w *watcher) size() (columns, rows int, terminal bool) {
	f, ok := w.out.(*os.File)
	if !ok {
		return 0, 0, false
	}
	s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	if s.Col == 0 || s.Row == 0 {
		return 80, 24, true // a serial line, which knows no size
	}
	return int(s.Col), int(s.Row), true
}

// line is a call in the table.
type line struct {
	admin.Call
	client, server netip.AddrPort
	since          time.Time
	state          string
	rates          rates
}

// sample is what a call had carried at a time.
type sample struct {
	at       time.Time
	pns, pac *admin.Traffic
}

// rates are per second; nil where they are not known.
type rates struct{ toPNS, toPAC *admin.Traffic }

func (r rates) bytes() (sum uint64) {
	for _, t := range []*admin.Traffic{r.toPNS, r.toPAC} {
		if t != nil {
			sum += t.Bytes
		}
	}
	return sum
}

// table returns the table's lines, and remembers the counts for the next one's rates.
func (w *watcher) table(calls []admin.Call, now time.Time) []string {
	var all []line
	samples := make(map[uint64]sample, len(calls))
	for _, c := range calls {
		s := sample{now, c.ToPNS, c.ToPAC}
		samples[c.Number] = s
		all = append(all, newLine(c, s.since(w.before[c.Number])))
	}
	w.before = samples
	slices.SortStableFunc(all, func(a, b line) int {
		return cmp.Or(compares[w.sort](&a, &b), cmp.Compare(a.Number, b.Number))
	})
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PNS\tPUBLIC\tPAC\tPUBLIC\tSTATE\tAGE\tTO PNS\tTO PAC\tPACKETS")
	for i := range all {
		all[i].write(t, now)
	}
	t.Flush()
	return w.filtered(strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n"))
}

// filtered keeps the head, and the lines that contain the text.
func (w *watcher) filtered(lines []string) []string {
	return append(lines[:1:1], slices.DeleteFunc(lines[1:], func(l string) bool { return !strings.Contains(l, w.filter) })...)
}

func newLine(c admin.Call, r rates) line {
	l := line{Call: c, since: c.Since, state: c.State, rates: r}
	// The daemon's addresses can be parsed; if not, the call is sorted first.
	l.client, _ = netip.ParseAddrPort(c.Control.Src)
	l.server, _ = netip.ParseAddrPort(c.Control.Dst)
	return l
}

func (l *line) write(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%v\t%s\t%s\t%s\n",
		end(l.PNS.Address, l.PNS.CallID), end(l.PNS.PublicAddress, l.PNS.PublicCallID),
		end(l.PAC.Address, l.PAC.CallID), end(l.PAC.PublicAddress, l.PAC.PublicCallID),
		l.State, now.Sub(l.since).Truncate(time.Second), rate(l.rates.toPNS), rate(l.rates.toPAC), packets(l.ToPNS, l.ToPAC))
}

func rate(t *admin.Traffic) string {
	if t == nil {
		return "-"
	}
	return fmt.Sprintf("%d p/s %sB/s", t.Packets, short(t.Bytes))
}

func packets(ways ...*admin.Traffic) string {
	var sum uint64
	counted := false
	for _, t := range ways {
		if t != nil {
			sum += t.Packets
			counted = true
		}
	}
	if !counted {
		return "-"
	}
	return fmt.Sprint(sum)
}

// short writes a number with three or four digits: 999, 9999, 10.0k, 1.23M.
func short(n uint64) string {
	v := float64(n)
	if n < 10_000 {
		return fmt.Sprint(n)
	}
	for _, unit := range []string{"k", "M", "G"} {
		if v /= 1000; v < 999.5 {
			return fmt.Sprintf("%.3g%s", v, unit)
		}
	}
	return fmt.Sprintf("%.4gG", v)
}

// since returns the rates between two samples, none if there is no earlier one, or if
// counting began again.
func (s sample) since(before sample) rates {
	if before.at.IsZero() {
		return rates{}
	}
	apart := s.at.Sub(before.at)
	return rates{admin.PerSecond(before.pns, s.pns, apart), admin.PerSecond(before.pac, s.pac, apart)}
}
