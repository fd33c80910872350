package lab

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The stand-in is this very program, started by pptpd where it would start pppd.
// These variables, set by a wrapper script because pptpd passes no environment,
// tell it so.
const (
	standInName  = "PPTPLAB_STANDIN"       // the server's name
	standInEvery = "PPTPLAB_STANDIN_EVERY" // a time.Duration, "0s" for no ticks
)

// StandIn acts as pppd where the process was started as one, until its call ends,
// and reports whether it did: then the caller has nothing left to do. Call it
// first in main and in TestMain of programs that use StartPPTPD.
//
// It speaks no PPP. It greets with a frame of kind hello, answers each frame with
// one of kind echo, and sends one of kind tick every so often: see Proof.
func StandIn() bool {
	name, ok := os.LookupEnv(standInName)
	if !ok {
		return false
	}
	every, _ := time.ParseDuration(os.Getenv(standInEvery)) // written by StartPPTPD
	if err := rawTerminal(int(os.Stdin.Fd())); err != nil {
		return true // pptpd is gone, and with it who could be told
	}
	standIn(Proof{Server: name, PID: os.Getpid(), Remote: remoteNumber(os.Args)}, every)
	return true
}

// remoteNumber finds the client's address among pppd's arguments.
func remoteNumber(args []string) netip.Addr {
	i := slices.Index(args, "remotenumber")
	if i < 0 || i+1 >= len(args) {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(args[i+1])
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// rawTerminal does what cfmakeraw(3) does.
func rawTerminal(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("get terminal settings: %w", err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("set terminal settings: %w", err)
	}
	return nil
}

// standIn serves a call until pptpd closes the terminal. The greeting is more
// than polite: pptpd forwards nothing before its pppd has written.
func standIn(self Proof, every time.Duration) {
	say := func(k Kind, payload []byte) bool {
		self.Kind, self.Payload = k, payload
		_, err := os.Stdout.Write(EncodeFrame(self.Bytes()))
		return err == nil
	}
	if !say(Hello, nil) {
		return
	}
	frames := readFrames()
	ticks := ticker(every)
	for count := 0; ; {
		select {
		case packet, ok := <-frames:
			if !ok || !say(Echo, packet) {
				return
			}
		case <-ticks:
			count++
			if !say(Tick, []byte(strconv.Itoa(count))) {
				return
			}
		}
	}
}

// readFrames reads the terminal in a goroutine that ends with the process.
func readFrames() <-chan []byte {
	frames := make(chan []byte)
	go func() {
		defer close(frames)
		for r := NewFrameReader(os.Stdin); ; {
			packet, err := r.Next()
			if err != nil {
				return
			}
			frames <- packet
		}
	}()
	return frames
}

func ticker(every time.Duration) <-chan time.Time {
	if every <= 0 {
		return nil
	}
	return time.Tick(every)
}

// Kind says why a stand-in sent a frame.
type Kind string

// The kinds of frames.
const (
	Hello Kind = "hello" // the call has begun
	Echo  Kind = "echo"  // the answer to a frame
	Tick  Kind = "tick"  // unsolicited
)

// Proof is a PPP packet from a stand-in. It proves which process of which server,
// serving which client, sent it.
type Proof struct {
	Kind    Kind
	Server  string
	PID     int        // of the stand-in: one per call
	Remote  netip.Addr // the client as the server sees it
	Payload []byte     // of an Echo the packet that it answers, of a Tick its number
}

// Bytes encodes the proof: words, then the payload.
func (p Proof) Bytes() []byte {
	return append(fmt.Appendf(nil, "%s %s %d %v ", p.Kind, p.Server, p.PID, p.Remote), p.Payload...)
}

// ParseProof decodes a packet of a stand-in.
func ParseProof(packet []byte) (Proof, error) {
	words := bytes.SplitN(packet, []byte(" "), 5)
	if len(words) != 5 {
		return Proof{}, fmt.Errorf("parse proof: %q", packet)
	}
	pid, err := strconv.Atoi(string(words[2]))
	if err != nil {
		return Proof{}, fmt.Errorf("parse proof %q: %w", packet, err)
	}
	remote, err := netip.ParseAddr(string(words[3]))
	if err != nil {
		return Proof{}, fmt.Errorf("parse proof %q: %w", packet, err)
	}
	return Proof{Kind: Kind(words[0]), Server: string(words[1]), PID: pid, Remote: remote, Payload: words[4]}, nil
}

func (p Proof) String() string { return string(p.Bytes()) }
