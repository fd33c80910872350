//go:build !noreplay

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// progress is a file that is read, and a bar on a terminal that says how far. It appears
// when the work has taken a second. A signal ends a regular file where it is: what comes by
// a pipe ends when the program at its other end does.
type progress struct {
	ctx      context.Context
	in       io.Reader
	size     int64     // 0 if unknown
	terminal io.Writer // nil for no bar
	now      func() time.Time

	began, shown time.Time
	read         int64
}

const (
	quietFor  = time.Second            // after which the bar appears
	showEvery = 200 * time.Millisecond // how often it changes
	barWidth  = 30
)

var errInterrupted = errors.New("interrupted")

// watch returns a reader of a file. w is where messages go; if that is a terminal, it gets
// the bar.
func watch(ctx context.Context, in *os.File, w io.Writer) *progress {
	p := &progress{ctx: ctx, in: in, now: time.Now, began: time.Now()}
	if info, err := in.Stat(); err == nil && info.Mode().IsRegular() {
		p.size = info.Size()
	}
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		p.terminal = f
	}
	return p
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (p *progress) Read(b []byte) (int, error) {
	if p.size > 0 && p.ctx.Err() != nil {
		return 0, errInterrupted
	}
	n, err := p.in.Read(b)
	p.read += int64(n)
	if p.terminal != nil {
		p.show(p.now())
	}
	return n, err
}

func (p *progress) show(now time.Time) {
	if now.Sub(p.began) < quietFor || now.Sub(p.shown) < showEvery {
		return
	}
	p.shown = now
	fmt.Fprintf(p.terminal, "\r%s\x1b[K", p.bar(now))
}

// bar says how much has been read, and how much time the rest takes if it goes on so.
func (p *progress) bar(now time.Time) string {
	const mb = 1e6
	read, size := float64(p.read), float64(p.size)
	if p.size == 0 || p.read > p.size {
		return fmt.Sprintf("%.1f MB read", read/mb)
	}
	done := int(barWidth * read / size)
	left := time.Duration(float64(now.Sub(p.began)) * (size - read) / max(read, 1))
	return fmt.Sprintf("[%s%s] %.0f%% of %.1f MB, %.0f s left",
		strings.Repeat("#", done), strings.Repeat(" ", barWidth-done), 100*read/size, size/mb, left.Seconds())
}

// done takes the bar away.
func (p *progress) done() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.terminal, "\r\x1b[K")
	}
}
