//go:build !noreplay

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProgress(t *testing.T) {
	tests := []struct {
		name string
		size int64
		took time.Duration // for each of ten reads of 100,000 bytes
		want []string      // in the bar, in this order
	}{
		{"quick", 1e6, 50 * time.Millisecond, nil},
		{"slow", 1e6, time.Second, []string{"[###      ", "] 10% of 1.0 MB, 9 s left", "50%", "100% of 1.0 MB, 0 s left", "\r\x1b[K"}},
		{"changes now and then", 1e6, 110 * time.Millisecond, []string{"100%", "\r\x1b[K"}},
		{"of unknown size", 0, time.Second, []string{"0.1 MB read", "1.0 MB read", "\r\x1b[K"}},
		{"larger than it was", 3e5, time.Second, []string{"33%", "1.0 MB read", "\r\x1b[K"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			var out bytes.Buffer
			p := &progress{ctx: context.Background(), in: strings.NewReader(strings.Repeat("x", 1e6)), size: tt.size, terminal: &out, now: func() time.Time { return now }, began: now}
			for range 10 {
				now = now.Add(tt.took)
				if n, err := p.Read(make([]byte, 1e5)); n != 1e5 || err != nil {
					t.Fatal(n, err)
				}
			}
			p.done()
			rest := out.String()
			for _, want := range tt.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%q is missing in %q", want, out.String())
				}
				rest = after
			}
			if rest != "" || len(tt.want) == 0 && out.Len() > 0 {
				t.Errorf("and then %q", rest)
			}
		})
	}
}

// TestProgressInLog: where no terminal waits there are plain lines, and few.
func TestProgressInLog(t *testing.T) {
	now := time.Unix(1e9, 0)
	var out bytes.Buffer
	p := &progress{ctx: context.Background(), in: strings.NewReader(strings.Repeat("x", 1e6)), size: 1e6, log: &out, now: func() time.Time { return now }, began: now}
	for range 10 {
		now = now.Add(6 * time.Second)
		if _, err := p.Read(make([]byte, 1e5)); err != nil {
			t.Fatal(err)
		}
	}
	p.done()
	want := `replay: 20% of 1.0 MB, 48 s left
replay: 40% of 1.0 MB, 36 s left
replay: 60% of 1.0 MB, 24 s left
replay: 80% of 1.0 MB, 12 s left
replay: 100% of 1.0 MB, 0 s left
`
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// TestIsTerminal has a real one.
func TestIsTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer master.Close()
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer terminal.Close()
	file, err := os.Open(captured("hangup-lan"))
	must(t, err)
	defer file.Close()
	if isTerminal(file) || !isTerminal(terminal) {
		t.Errorf("the file is a terminal: %v; the terminal is one: %v", isTerminal(file), isTerminal(terminal))
	}
	if p := watch(context.Background(), file, terminal); p.terminal != terminal || p.size != 3926 {
		t.Errorf("%+v", p)
	}
	if p := watch(context.Background(), file, new(bytes.Buffer)); p.terminal != nil {
		t.Errorf("%+v", p)
	}
}
