package lab

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// raw is a raw socket that sends and receives IP packets of one protocol for one
// address. A goroutine collects packets from when it is opened until Close.
// Beside a program that has the address too, it receives a copy of each packet.
type raw[P fmt.Stringer] struct {
	name   string // of the protocol
	addr   netip.Addr
	parse  func(datagram []byte) (P, error) // an error: not for the lab
	socket *os.File
	done   chan struct{} // closed when the collector has ended

	mu    sync.Mutex    // guards queue and more
	queue []P           // received and not yet taken, in order of arrival
	more  chan struct{} // closed, and replaced, when queue grows
}

const (
	maxDatagram = 64 << 10 // what one read may give
	maxQueue    = 64 << 10 // packets; what comes on top is lost, as in a full socket
)

// openRaw opens a socket bound to one of the host's addresses.
func openRaw[P fmt.Stringer](h *Host, addr netip.Addr, protocol int, name string, parse func([]byte) (P, error)) (*raw[P], error) {
	f, err := h.Socket(unix.AF_INET, unix.SOCK_RAW, protocol)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	r := &raw[P]{name: name, addr: addr, parse: parse, socket: f, done: make(chan struct{}), more: make(chan struct{})}
	if err := r.bind(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s on %v: %w", name, addr, err)
	}
	go r.collect()
	return r, nil
}

func (r *raw[P]) bind() error {
	return r.control(func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: r.addr.As4()})
	})
}

// control runs f on the descriptor without taking it from the poller, as
// File.Fd would.
func (r *raw[P]) control(f func(fd int) error) error {
	conn, err := r.socket.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := conn.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return err
	}
	return result
}

// collect reads until the socket is closed.
func (r *raw[P]) collect() {
	defer close(r.done)
	b := make([]byte, maxDatagram)
	for {
		n, err := r.socket.Read(b)
		if err != nil {
			return
		}
		if p, err := r.parse(b[:n]); err == nil {
			r.put(p)
		}
	}
}

func (r *raw[P]) put(p P) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == maxQueue {
		return
	}
	r.queue = append(r.queue, p)
	close(r.more)
	r.more = make(chan struct{})
}

func (r *raw[P]) send(datagram []byte, to netip.Addr) error {
	return r.control(func(fd int) error {
		return unix.Sendto(fd, datagram, 0, &unix.SockaddrInet4{Addr: to.As4()})
	})
}

// Recv takes the oldest packet, waiting for one. The error wraps ErrTimeout.
func (r *raw[P]) Recv(within time.Duration) (P, error) {
	return r.Take(within, func(P) bool { return true })
}

// Take takes the oldest packet that is wanted, waiting for one; others stay. The
// error wraps ErrTimeout, or os.ErrClosed after Close.
func (r *raw[P]) Take(within time.Duration, wanted func(P) bool) (P, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	var none P
	for {
		p, ok, more := r.take(wanted)
		if ok {
			return p, nil
		}
		select {
		case <-more:
		case <-r.done:
			return none, fmt.Errorf("receive %s on %v: %w", r.name, r.addr, os.ErrClosed)
		case <-timer.C:
			return none, fmt.Errorf("receive %s on %v within %v: %w; others: %v", r.name, r.addr, within, ErrTimeout, r.Waiting())
		}
	}
}

func (r *raw[P]) take(wanted func(P) bool) (p P, ok bool, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.queue, wanted)
	if i < 0 {
		return p, false, r.more
	}
	p = r.queue[i]
	r.queue = slices.Delete(r.queue, i, i+1)
	return p, true, nil
}

// Waiting returns the packets that nobody has taken.
func (r *raw[P]) Waiting() []P {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.queue)
}

// Quiet is an error if a packet waits already or arrives within that time.
func (r *raw[P]) Quiet(within time.Duration) error {
	if p, err := r.Recv(within); err == nil {
		return fmt.Errorf("expect silence on %v: got %v", r.addr, p)
	}
	return nil
}

// Close closes the socket and waits for the collector.
func (r *raw[P]) Close() error {
	err := r.socket.Close()
	<-r.done
	if err != nil {
		return fmt.Errorf("close %s: %w", r.name, err)
	}
	return nil
}
