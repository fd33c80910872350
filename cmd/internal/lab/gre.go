package lab

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
)

// GRE is a raw socket that sends and receives enhanced GRE for one address. A
// goroutine collects packets from when it is opened until Close. Beside a program
// that has the address too, it receives a copy of each packet.
type GRE struct {
	addr   netip.Addr
	socket *os.File
	done   chan struct{} // closed when the collector has ended

	mu    sync.Mutex    // guards queue and more
	queue []Packet      // received and not yet taken, in order of arrival
	more  chan struct{} // closed, and replaced, when queue grows
}

const (
	maxDatagram = 64 << 10 // what one read may give
	maxQueue    = 64 << 10 // packets; what comes on top is lost, as in a full socket
)

// OpenGRE opens a socket bound to one of the host's addresses.
func OpenGRE(h *Host, addr netip.Addr) (*GRE, error) {
	f, err := h.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_GRE)
	if err != nil {
		return nil, fmt.Errorf("open GRE: %w", err)
	}
	g := &GRE{addr: addr, socket: f, done: make(chan struct{}), more: make(chan struct{})}
	if err := g.bind(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open GRE on %v: %w", addr, err)
	}
	go g.collect()
	return g, nil
}

func (g *GRE) bind() error {
	return g.control(func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: g.addr.As4()})
	})
}

// control runs f on the descriptor without taking it from the poller, as
// File.Fd would.
func (g *GRE) control(f func(fd int) error) error {
	raw, err := g.socket.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return err
	}
	return result
}

// collect reads until the socket is closed. What is not enhanced GRE is not for
// the lab.
func (g *GRE) collect() {
	defer close(g.done)
	b := make([]byte, maxDatagram)
	for {
		n, err := g.socket.Read(b)
		if err != nil {
			return
		}
		p, err := parseDatagram(b[:n])
		if err != nil {
			continue
		}
		p.Arrival = time.Now()
		g.put(p)
	}
}

func (g *GRE) put(p Packet) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == maxQueue {
		return
	}
	g.queue = append(g.queue, p)
	close(g.more)
	g.more = make(chan struct{})
}

// Send sends a packet. A zero Src is the socket's own address; another one is
// spoofed.
func (g *GRE) Send(p Packet) error {
	if !p.Src.IsValid() {
		p.Src = g.addr
	}
	err := g.control(func(fd int) error {
		return unix.Sendto(fd, p.datagram(), 0, &unix.SockaddrInet4{Addr: p.Dst.As4()})
	})
	if err != nil {
		return fmt.Errorf("send %v: %w", p, err)
	}
	return nil
}

// Recv takes the oldest packet, waiting for one. The error wraps ErrTimeout.
func (g *GRE) Recv(within time.Duration) (Packet, error) {
	return g.Take(within, func(Packet) bool { return true })
}

// RecvCall takes the oldest packet that carries this Call ID; others stay.
func (g *GRE) RecvCall(id pptp.CallID, within time.Duration) (Packet, error) {
	return g.Take(within, func(p Packet) bool { return p.CallID == id })
}

// Take takes the oldest packet that is wanted, waiting for one; others stay. The
// error wraps ErrTimeout, or os.ErrClosed after Close.
func (g *GRE) Take(within time.Duration, wanted func(Packet) bool) (Packet, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		p, ok, more := g.take(wanted)
		if ok {
			return p, nil
		}
		select {
		case <-more:
		case <-g.done:
			return Packet{}, fmt.Errorf("receive GRE on %v: %w", g.addr, os.ErrClosed)
		case <-timer.C:
			return Packet{}, fmt.Errorf("receive GRE on %v within %v: %w; others: %v", g.addr, within, ErrTimeout, g.Waiting())
		}
	}
}

func (g *GRE) take(wanted func(Packet) bool) (Packet, bool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.queue, wanted)
	if i < 0 {
		return Packet{}, false, g.more
	}
	p := g.queue[i]
	g.queue = slices.Delete(g.queue, i, i+1)
	return p, true, nil
}

// Waiting returns the packets that nobody has taken.
func (g *GRE) Waiting() []Packet {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.queue)
}

// Quiet is an error if a packet waits already or arrives within that time.
func (g *GRE) Quiet(within time.Duration) error {
	if p, err := g.Recv(within); err == nil {
		return fmt.Errorf("expect silence on %v: got %v", g.addr, p)
	}
	return nil
}

// Close closes the socket and waits for the collector.
func (g *GRE) Close() error {
	err := g.socket.Close()
	<-g.done
	if err != nil {
		return fmt.Errorf("close GRE: %w", err)
	}
	return nil
}
