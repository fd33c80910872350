package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"pptpalg/cmd/pptpalg/internal/admin"
)

// watcher shows the calls repeatedly.
type watcher struct {
	calls    func(context.Context) ([]admin.Call, error)
	out      io.Writer
	lookup   func(string) (string, bool) // environment variables
	interval time.Duration
	sort     order
	filter   string
	wide     bool

	before map[uint64]sample // of calls by their number, when the last table was shown
}

// The control sequences of ECMA-48 that the live table needs, and xterm's second screen.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	endOfLine   = "\x1b[K"
	endOfScreen = "\x1b[J"
)

// Run shows a table at each interval until ctx is done, or q is pressed. It leaves a terminal
// as it was. If no daemon answers, that is an error; on a terminal Run shows the error and
// waits for the daemon. A terminal that cannot be drawn on is none.
func (w *watcher) Run(ctx context.Context) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	show := w.print
	if w.terminal().drawable {
		show = w.draw
		if _, err := io.WriteString(w.out, enterScreen); err != nil {
			return fmt.Errorf("draw calls: %w", err)
		}
		defer func() { _, _ = io.WriteString(w.out, leaveScreen) }()
		defer listenKeys(func(key byte) {
			if key == 'q' || key == 'Q' {
				quit()
			}
		})()
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

func (w *watcher) terminal() terminal {
	lookup := w.lookup
	if lookup == nil {
		lookup = func(string) (string, bool) { return "", false }
	}
	return terminalOf(w.out, lookup)
}

// print adds a table to the output.
func (w *watcher) print(calls []admin.Call, err error) error {
	if err != nil {
		return err
	}
	term, now := w.terminal(), time.Now()
	lines := w.table(calls, now).lines(term.columns, term.coloured)
	text := fmt.Sprintf("%s\n%s\n", now.UTC().Format(time.RFC3339), strings.Join(lines, "\n"))
	if _, err := io.WriteString(w.out, text); err != nil {
		return fmt.Errorf("print calls: %w", err)
	}
	return nil
}

// draw replaces what the terminal shows.
func (w *watcher) draw(calls []admin.Call, err error) error {
	term, now := w.terminal(), time.Now()
	lines := []string{cut(w.title(calls, err, now), term.columns)}
	if err != nil {
		lines = append(lines, cut(err.Error(), term.columns))
	} else {
		lines = append(lines, w.table(calls, now).lines(term.columns, term.coloured)...)
	}
	if _, err := io.WriteString(w.out, screen(lines, term.rows)); err != nil {
		return fmt.Errorf("draw calls: %w", err)
	}
	return nil
}

// title is the first line of the live table. Without an answer nobody knows of any calls.
func (w *watcher) title(calls []admin.Call, err error, now time.Time) string {
	what := number(len(calls), "call")
	if bad := failing(rowsOf(calls)); len(bad) > 0 {
		what += fmt.Sprintf(", %d NOT CARRYING", len(bad))
	}
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		what = "NO DAEMON"
	case err != nil:
		what = "NO ANSWER"
	}
	text := fmt.Sprintf("%s   %s   by %s   q quits", now.Format(time.DateTime), what, w.sorted())
	if w.filter != "" {
		text += fmt.Sprintf("   filter %q", w.filter)
	}
	return text
}

// sorted is the order of the live table: the newest calls first, unless another is given.
func (w *watcher) sorted() string {
	if w.sort != "" {
		return string(w.sort)
	}
	return "age"
}

// screen fits lines to a terminal that has so many.
func screen(lines []string, rows int) string {
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
		b.WriteString(l + endOfLine)
	}
	b.WriteString(endOfScreen)
	return b.String()
}

// sample is what a call had carried at a time.
type sample struct {
	at                 time.Time
	toClient, toServer *admin.Traffic
}

// table returns the table, and remembers the counts for the next one's rates.
func (w *watcher) table(calls []admin.Call, now time.Time) *table {
	return callTable(w.chosen(w.measured(calls, now), "age"), now, callColumns{wide: w.wide, rates: true})
}

// measured returns the calls with their rates since the last time, and remembers the counts for
// the next time.
func (w *watcher) measured(calls []admin.Call, now time.Time) []*row {
	samples := make(map[uint64]sample, len(calls))
	rows := rowsOf(calls)
	for _, r := range rows {
		s := sample{now, r.toClient, r.toServer}
		samples[r.Number] = s
		r.rateClient, r.rateServer = s.since(w.before[r.Number])
	}
	w.before = samples
	return rows
}

// once returns the calls for a single table. By rate, they are asked for twice.
func (w *watcher) once(ctx context.Context) ([]*row, error) {
	calls, err := w.calls(ctx)
	if err == nil && w.byRate() {
		w.measured(calls, time.Now())
		select {
		case <-time.After(w.interval):
			calls, err = w.calls(ctx)
		case <-ctx.Done():
			err = errors.New("interrupted while rates were measured")
		}
	}
	if err != nil {
		return nil, err
	}
	return w.chosen(w.measured(calls, time.Now()), "number"), nil
}

// byRate reports whether the order is that of the rates.
func (w *watcher) byRate() bool { return strings.TrimPrefix(string(w.sort), "-") == "rate" }

// chosen returns the calls that match the filter, in their order.
func (w *watcher) chosen(rows []*row, otherwise string) []*row {
	words := strings.Fields(w.filter)
	rows = slices.DeleteFunc(rows, func(r *row) bool { return !r.matches(words) })
	slices.SortStableFunc(rows, w.sort.by(otherwise))
	return rows
}

// since returns the rates between two samples, none if there is no earlier one, or if
// counting began again.
func (s sample) since(before sample) (toClient, toServer *admin.Traffic) {
	if before.at.IsZero() {
		return nil, nil
	}
	apart := s.at.Sub(before.at)
	return admin.PerSecond(before.toClient, s.toClient, apart), admin.PerSecond(before.toServer, s.toServer, apart)
}
