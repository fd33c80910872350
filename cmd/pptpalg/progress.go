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
// when the work has taken a second. Elsewhere a line says so every ten seconds. A signal ends a regular file where it is: what comes by
// a pipe ends when the program at its other end does.
type progress struct {
	ctx      context.Context
	in       io.Reader
	size     int64     // 0 if unknown
	terminal io.Writer // for the bar; nil for lines
	log      io.Writer // for lines, where no terminal waits
	now      func() time.Time

	began, shown, said time.Time
	read               int64
}

const (
	quietFor  = time.Second            // after which the bar appears
	showEvery = 200 * time.Millisecond // how often it changes
	sayEvery  = 10 * time.Second       // how often there is a line instead
	barWidth  = 30
)

var errInterrupted = errors.New("interrupted")

// watch returns a reader of a file. w is where messages go: the bar, if it is a terminal.
func watch(ctx context.Context, in *os.File, w io.Writer) *progress {
	p := &progress{ctx: ctx, in: in, log: w, now: time.Now, began: time.Now()}
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
	} else {
		p.say(p.now())
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

func (p *progress) say(now time.Time) {
	if now.Sub(p.began) >= sayEvery && now.Sub(p.said) >= sayEvery {
		p.said = now
		fmt.Fprintf(p.log, "replay: %s\n", p.far(now))
	}
}

// bar draws how much has been read.
func (p *progress) bar(now time.Time) string {
	if !p.sized() {
		return p.far(now)
	}
	done := int(barWidth * p.read / p.size)
	return fmt.Sprintf("[%s%s] %s", strings.Repeat("#", done), strings.Repeat(" ", barWidth-done), p.far(now))
}

// far says how much has been read, and how much time the rest takes if it goes on so.
func (p *progress) far(now time.Time) string {
	const mb = 1e6
	read, size := float64(p.read), float64(p.size)
	if !p.sized() {
		return fmt.Sprintf("%.1f MB read", read/mb)
	}
	left := time.Duration(float64(now.Sub(p.began)) * (size - read) / max(read, 1))
	return fmt.Sprintf("%.0f%% of %.1f MB, %.0f s left", 100*read/size, size/mb, left.Seconds())
}

// sized reports whether it is known how much there is to read.
func (p *progress) sized() bool { return p.size > 0 && p.read <= p.size }

// done takes the bar away.
func (p *progress) done() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.terminal, "\r\x1b[K")
	}
}
