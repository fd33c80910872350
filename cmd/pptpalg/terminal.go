package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminal is what is known of an output. The zero value is for what is no terminal.
type terminal struct {
	columns, rows int  // 0 where the output is no terminal
	drawable      bool // it can be drawn on in place
	coloured      bool
}

// terminalOf looks at an output. A terminal has colours unless NO_COLOR says otherwise
// (no-color.org), or it is a dumb one. Without a TERM it knows no control sequences either.
func terminalOf(out io.Writer, lookup func(string) (string, bool)) terminal {
	f, ok := out.(*os.File)
	if !ok {
		return terminal{}
	}
	s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return terminal{}
	}
	t := terminal{columns: int(s.Col), rows: int(s.Row)}
	if s.Col == 0 || s.Row == 0 {
		t.columns, t.rows = 80, 24 // a serial line, which knows no size
	}
	no, _ := lookup("NO_COLOR")
	kind, _ := lookup("TERM")
	t.drawable = kind != "" && kind != "dumb"
	t.coloured = t.drawable && no == ""
	return t
}

// is reports whether the output is a terminal.
func (t terminal) is() bool { return t.columns > 0 }

// listenKeys calls press for each key that is pressed, until stop is called. Where the
// process has no terminal, or is in its background, there are no keys. Signals of the
// keyboard, as Ctrl-C, stay what they are.
func listenKeys(press func(key byte)) (stop func()) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return func() {}
	}
	raw, err := tty.SyscallConn()
	if err != nil {
		_ = tty.Close()
		return func() {}
	}
	var before *unix.Termios
	_ = raw.Control(func(fd uintptr) { before = setKeys(int(fd)) })
	if before == nil {
		_ = tty.Close()
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1); ; {
			if _, err := tty.Read(b); err != nil {
				return
			}
			press(b[0])
		}
	}()
	return func() {
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetTermios(int(fd), unix.TCSETS, before) })
		_ = tty.Close() // a read that waits ends with it
		<-done
	}
}

// setKeys has a terminal tell each key at once, and not show it. It returns how the terminal
// was before, nil if it could not be set.
func setKeys(fd int) *unix.Termios {
	if front, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || front != unix.Getpgrp() {
		return nil // setting it would stop a process in the background
	}
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil
	}
	keys := *before
	keys.Lflag &^= unix.ICANON | unix.ECHO
	keys.Cc[unix.VMIN], keys.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(fd, unix.TCSETS, &keys) != nil {
		return nil
	}
	return before
}
