package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// ErrLost says that the kernel dropped events because they came faster than they were read.
var ErrLost = errors.New("conntrack events were lost")

// eventBuffer is the size of a Listener's receive buffer in bytes. It holds some 300
// events. If more are waiting, it is better to read the whole table, and ErrLost tells the
// caller.
const eventBuffer = 256 << 10

// Listener receives conntrack's events about entries that leave the table of one network
// namespace: entries of TCP connections to certain ports, and entries of GRE. One goroutine
// at a time may use it; any goroutine may call Close. See "Events" in the package's
// documentation for what the kernel does not report.
type Listener struct {
	// fd is a socket that the runtime's poller does not watch: the poller would wake a thread
	// for each event, also while nobody waits for one.
	fd   int
	wake int // an eventfd; readable after Close

	mu     sync.RWMutex // held for reading by Next, so that Close closes no file in use
	closed bool

	// Memory that is reused.
	buf  []byte
	msgs []netlink.Message
}

// Destroyed is an entry that has left the table.
type Destroyed struct {
	Connection calls.Connection // as far as the kernel tells; zero for a flow
	Flow       calls.Flow       // zero for a control connection

	// Left is how much time the entry still had, in full seconds; 0 if it has expired.
	Left time.Duration
	// By is the netlink port of the program that deleted the entry; 0 for the kernel
	// itself. The first port of a process is its ID.
	By uint32
}

// IsFlow reports whether the entry was a flow's, or another program's entry that a flow
// used.
func (d *Destroyed) IsFlow() bool { return d.Flow != calls.Flow{} }

// Listen opens a Listener in the calling thread's network namespace, for GRE and for TCP
// connections whose original destination port is one of ports. It does not receive events
// of what the Conns in own delete themselves, unless one of them has had to replace its
// socket.
func Listen(ports []uint16, own ...*Conn) (*Listener, error) {
	program, err := eventFilter(ports, own)
	if err != nil {
		return nil, fmt.Errorf("assemble filter of conntrack events: %w", err)
	}
	fd, err := openNetlink(unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w%s", err, hint(err))
	}
	l := &Listener{fd: fd, buf: make([]byte, bufferSize)}
	if err := l.join(program); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to conntrack events: %w%s", err, hint(err))
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to conntrack events: %w", os.NewSyscallError("eventfd", err))
	}
	return l, nil
}

// join joins the group. The filter is set before: so no other event ever gets into the buffer.
func (l *Listener) join(program []bpf.RawInstruction) error {
	if err := l.setBuffer(eventBuffer); err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	err := unix.SetsockoptSockFprog(l.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.SetsockoptInt(l.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_CONNTRACK_DESTROY)
	}
	return os.NewSyscallError("setsockopt", err)
}

// setBuffer sets the size of the receive buffer, beyond the host's limit if the process may.
func (l *Listener) setBuffer(size int) error {
	err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	if err != nil {
		err = unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
	return os.NewSyscallError("setsockopt", err)
}

// Close ends the Listener. A Next that waits returns an error.
func (l *Listener) Close() error {
	unix.Write(l.wake, binary.NativeEndian.AppendUint64(nil, 1))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if err := errors.Join(unix.Close(l.fd), unix.Close(l.wake)); err != nil {
		return fmt.Errorf("close netfilter netlink socket: %w", err)
	}
	return nil
}

// Next waits for the next events until a deadline, for ever if it is zero, and returns the entries that have left
// the table: those of all events that are waiting, up to eventsAtOnce. There may be none,
// without an error. The error is ErrLost if the buffer was too small; then there may be
// entries nevertheless. It is os.ErrDeadlineExceeded at the deadline, and os.ErrClosed after
// Close.
func (l *Listener) Next(until time.Time) ([]Destroyed, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for !l.closed {
		d := l.drain()
		switch {
		case errors.Is(d.err, unix.ENOBUFS):
			return d.all, ErrLost
		case d.err != nil:
			return d.all, fmt.Errorf("receive conntrack event: %w", d.err)
		case d.events > 0:
			return d.all, nil
		}
		if err := l.await(until); err != nil {
			return nil, err
		}
	}
	return nil, os.ErrClosed
}

// await waits until there is an event.
func (l *Listener) await(until time.Time) error {
	for {
		var pause *unix.Timespec
		if !until.IsZero() {
			left := time.Until(until)
			if left <= 0 {
				return os.ErrDeadlineExceeded
			}
			t := unix.NsecToTimespec(int64(left))
			pause = &t
		}
		files := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(l.wake), Events: unix.POLLIN}}
		_, err := unix.Ppoll(files, pause, nil)
		switch {
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("wait for a conntrack event: %w", os.NewSyscallError("ppoll", err))
		case files[1].Revents != 0:
			return os.ErrClosed
		case files[0].Revents != 0:
			return nil
		}
	}
}

// eventsAtOnce is how many events Next returns at most.
const eventsAtOnce = 512

// drained is what was read without waiting.
type drained struct {
	all    []Destroyed
	events int
	err    error
}

// drain reads the events that are waiting.
func (l *Listener) drain() (d drained) {
	for d.events < eventsAtOnce {
		n, err := unix.Read(l.fd, l.buf)
		switch {
		case err == unix.EAGAIN:
			return d
		case err == unix.EINTR:
			continue
		case err == nil:
			l.msgs, err = split(l.msgs[:0], l.buf[:n])
		}
		if err != nil {
			d.err = err
			return d
		}
		d.events++
		for _, m := range l.msgs {
			d.all = appendDestroyed(d.all, m)
		}
	}
	return d
}

// appendDestroyed decodes an event. It skips entries that the filter passed but that are
// not ours.
func appendDestroyed(all []Destroyed, m netlink.Message) []Destroyed {
	e, err := decodeEntry(m.Data)
	if err != nil || m.Header.Type != msgDelete {
		return all
	}
	d := Destroyed{Left: time.Duration(e.timeout) * time.Second, By: m.Header.PID}
	if e.orig.proto == unix.IPPROTO_TCP {
		d.Connection = e.connection()
		return append(all, d)
	}
	for _, f := range e.flows() {
		d.Flow = f
		all = append(all, d)
	}
	return all
}

// flows returns the flows that the entry translates.
func (e *entry) flows() []calls.Flow {
	all := e.lent()
	if f, ok := e.flow(); ok {
		all = append(all, f)
	}
	return all
}

// EventsOn reports whether the kernel sends events about new entries, in the network
// namespace of the calling thread (net.netfilter.nf_conntrack_events is not 0).
func EventsOn() bool {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_events")
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

// Where the filter reads, in bytes from the beginning of the message: struct nlmsghdr of
// linux/netlink.h and struct nfgenmsg of linux/netfilter/nfnetlink.h.
const (
	offType       = 4
	offPort       = 12
	offFamily     = unix.NLMSG_HDRLEN
	offAttributes = unix.NLMSG_HDRLEN + nfgenmsgLen
)

// The filter's results: how much of the message goes into the buffer.
var (
	keep = bpf.RetConstant{Val: math.MaxUint32}
	drop = bpf.RetConstant{Val: 0}
)

// eventFilter returns the program that the kernel runs for each event of the namespace, in
// the softirq that caused it. It drops events of other connections: they wake no process,
// and take no room in the buffer.
func eventFilter(ports []uint16, own []*Conn) ([]bpf.RawInstruction, error) {
	var p program
	p.load(bpf.LoadAbsolute{Off: offType, Size: 2})
	p.demand(bpf.JumpEqual, network16(uint16(msgDelete)))
	p.load(bpf.LoadAbsolute{Off: offPort, Size: 4})
	for _, c := range own {
		p.demand(bpf.JumpNotEqual, network32(c.port()))
	}
	p.load(bpf.LoadAbsolute{Off: offFamily, Size: 1})
	p.demand(bpf.JumpEqual, unix.AF_INET)
	p.attribute(ctaTupleOrig)
	p.nested(ctaTupleProto)
	p.load(bpf.TAX{}, bpf.StoreScratch{Src: bpf.RegX})
	p.nested(ctaProtoNum)
	p.payload(1)

	var gre program
	gre.demand(bpf.JumpEqual, unix.IPPROTO_GRE)
	gre.attribute(ctaStatus)
	gre.payload(4)
	gre.demand(bpf.JumpBitsSet, uint32(statusFixedTimeout|statusSeenReply)) // no strays: anybody can cause these
	gre.load(keep)
	p.load(bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: uint8(len(gre))})
	p.load(gre...)

	p.load(bpf.LoadScratch{Dst: bpf.RegA})
	p.nested(ctaProtoDstPort)
	p.payload(2)
	for _, port := range unique(ports) {
		p.load(bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1}, keep)
	}
	p.load(drop)
	return bpf.Assemble(p)
}

// program is a filter being written.
type program []bpf.Instruction

func (p *program) load(i ...bpf.Instruction) { *p = append(*p, i...) }

// demand drops the message unless register A passes the test.
func (p *program) demand(test bpf.JumpTest, v uint32) {
	p.load(bpf.JumpIf{Cond: test, Val: v, SkipTrue: 1}, drop)
}

// attribute sets A to the place of an attribute of the message, 0 if there is none.
func (p *program) attribute(typ uint32) {
	p.load(bpf.LoadConstant{Dst: bpf.RegA, Val: offAttributes}, bpf.LoadConstant{Dst: bpf.RegX, Val: typ},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr})
}

// nested sets A from the place of an attribute to that of one within it.
func (p *program) nested(typ uint32) {
	p.load(bpf.LoadConstant{Dst: bpf.RegX, Val: typ}, bpf.LoadExtension{Num: bpf.ExtNetlinkAttrNested})
}

// payload sets A from the place of an attribute to its number of so many bytes.
func (p *program) payload(size int) {
	p.load(bpf.TAX{}, bpf.LoadIndirect{Off: unix.SizeofNlAttr, Size: size})
}

// A filter reads in network order what is written in the machine's order.

func network16(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}

func network32(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}

// port returns the netlink port of the present socket.
func (c *Conn) port() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.socket.port()
}
