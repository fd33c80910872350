package nfqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	nfq "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Defaults of Config. The kernel's own limit of 1024 packets is one burst of a
// fast link; 4096, at 100 µs for each, are less than half a second of delay. The
// kernel doubles the buffer it is asked for, so 4 MiB hold 4096 packets of 2 KiB
// with their overhead: neither limit makes the other pointless.
const (
	DefaultMaxLen     = 4096
	DefaultReadBuffer = 4 << 20
)

// maxPacketLen asks for whole packets. The kernel lowers it to 65531.
const maxPacketLen = 0xffff

// allIDs, added to the ID of the last packet, lies after every waiting packet's:
// the kernel compares modulo 2^32 (nfq_id_after).
const allIDs = 1 << 30

// drainLimit bounds the time that stopping takes if packets keep coming.
const drainLimit = time.Second

// Config says which queue to take and whom to tell. The functions are called by
// the goroutine that receives: they must not block or panic. Each may be nil.
type Config struct {
	Queue      uint16 // queue number, as the firewall rule says it
	MaxLen     uint32 // packets the kernel holds for a verdict; 0 is DefaultMaxLen
	ReadBuffer int    // socket receive buffer, bytes; 0 is DefaultReadBuffer

	// Panicked is told of a panic in the handler, after the packet was accepted.
	Panicked func(value any, stack []byte)
	// Overrun is told that the socket's buffer was full: the kernel dropped at
	// least one packet. Stats has the number.
	Overrun func()
	// Failed is told of an error that the queue survived: one receive that failed,
	// or one packet that got no verdict or not the one it was meant to.
	Failed func(error)
}

func (c Config) withDefaults() Config {
	if c.MaxLen == 0 {
		c.MaxLen = DefaultMaxLen
	}
	if c.ReadBuffer == 0 {
		c.ReadBuffer = DefaultReadBuffer
	}
	if c.Panicked == nil {
		c.Panicked = func(any, []byte) {}
	}
	if c.Overrun == nil {
		c.Overrun = func() {}
	}
	if c.Failed == nil {
		c.Failed = func(error) {}
	}
	return c
}

// Queue is a bound NFQUEUE.
//
//	Open ── bound, packets wait ── Run ── the handler decides ── ctx done ── drain ── unbound
//
// One goroutine, go-nfqueue's, receives and answers from Open on; it has ended when
// Run or Close returns.
type Queue struct {
	cfg     Config
	handler Handler
	conn    *netlink.Conn
	verdict func(id uint32, v Verdict, payload []byte) error
	batch   func(last uint32, v Verdict) error // Accept or Drop for all packets up to last
	nf      *nfq.Nfqueue

	start   sync.Once
	running chan struct{} // closed by Run

	stop     sync.Once
	stopping chan struct{} // closed when draining begins
	drainBy  time.Time     // written before stopping is closed
	closeErr error         // written under stop

	// Owned by the receiving goroutine.
	last    uint32 // ID of the last packet, 0 before the first
	trouble trouble

	done chan struct{} // closed by the receiving goroutine when it ends
	err  error         // why it ended, nil for a stop; written before done is closed
}

// Open binds the queue, so that firewall rules may be loaded. Packets that come
// before Run wait in the kernel, up to MaxLen.
//
// A queue that another socket has is a *TakenError. Any error's text ends with
// what to do about it; the kernel's errno is wrapped. The caller must call Run or
// Close.
func Open(cfg Config, h Handler) (*Queue, error) {
	q, err := open(cfg.withDefaults(), h)
	if err != nil {
		return nil, explain(cfg.Queue, err)
	}
	return q, nil
}

func open(cfg Config, h Handler) (*Queue, error) {
	nf, err := nfq.Open(&nfq.Config{
		NfQueue:      cfg.Queue,
		MaxQueueLen:  cfg.MaxLen,
		MaxPacketLen: maxPacketLen,
		Copymode:     nfq.NfQnlCopyPacket,
		AfFamily:     unix.AF_INET,
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	q := newQueue(cfg, h)
	q.nf, q.conn = nf, nf.Con
	q.verdict, q.batch = q.setVerdict, q.setVerdicts
	if err := q.bind(); err != nil {
		return nil, errors.Join(err, nf.Close())
	}
	return q, nil
}

func newQueue(cfg Config, h Handler) *Queue {
	q := &Queue{
		cfg:      cfg,
		handler:  h,
		running:  make(chan struct{}),
		stopping: make(chan struct{}),
		done:     make(chan struct{}),
	}
	q.trouble.cfg = &q.cfg
	return q
}

// bind sizes the buffer before the first packet can come, then binds and starts
// the receiving goroutine.
//
// Where firewall rules stand already, after a crash say, packets come while the
// queue is set up. None comes cut: until the copy mode is set, in one step with the
// copy length, the kernel drops them. From then on go-nfqueue, with one more
// setting to go, would take a packet for the kernel's answer and fail; so packets
// are kept from the socket until it is done, and then dropped, for TCP to send
// again. The drop comes last: a packet that no one was told of would hold its
// place, and its sender's buffer, for good. A packet that slips in between is
// handled like any other, and its verdict refused.
func (q *Queue) bind() error {
	if err := q.conn.SetReadBuffer(q.cfg.ReadBuffer); err != nil {
		return fmt.Errorf("set receive buffer to %d bytes: %w", q.cfg.ReadBuffer, err)
	}
	if err := q.conn.SetBPF(answersOnly); err != nil {
		return fmt.Errorf("set socket filter: %w", err)
	}
	if err := q.nf.RegisterWithErrorFunc(context.Background(), q.receive, q.receiveFailed); err != nil {
		return err
	}
	if err := q.conn.RemoveBPF(); err != nil {
		return fmt.Errorf("remove socket filter: %w", err)
	}
	if err := q.batch(allIDs, Drop); err != nil {
		return fmt.Errorf("drop packets from before: %w", err)
	}
	return nil
}

// answersOnly is a socket filter that lets the kernel's answers pass (NLMSG_ERROR,
// which with code 0 is success) and nothing else. It compares nlmsg_type, a 16-bit
// field at offset 4 in the machine's byte order, which BPF loads as big endian.
var answersOnly = []bpf.RawInstruction{
	{Op: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
	{Op: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: answerType(), Jf: 1},
	{Op: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	{Op: unix.BPF_RET | unix.BPF_K, K: 0},
}

func answerType() uint32 {
	native := binary.NativeEndian.AppendUint16(nil, unix.NLMSG_ERROR)
	return uint32(binary.BigEndian.Uint16(native))
}

// Run lets packets come to the handler until ctx is done, then drains the queue
// as Close does. It returns nil for that, and the error if the queue died before.
// The handler must be able to work until Run returns.
func (q *Queue) Run(ctx context.Context) error {
	q.start.Do(func() { close(q.running) })
	select {
	case <-ctx.Done():
	case <-q.stopping:
	case <-q.done:
	}
	return q.Close()
}

// Close drains the queue, unbinds it and closes the socket. Take the firewall
// rules away first: then what waits is finite, and gets the handler's verdict
// (without Run before: accept). If packets keep coming for a second, those that
// wait then are accepted as they came, for the kernel drops what waits in a queue
// that is unbound (instance_destroy_rcu, nfqnl_flush).
//
// Take the rules away without deleting a base chain: when any hook of the network
// namespace goes, the kernel drops what waits in every queue of it
// (nf_queue_nf_hook_drop), and that of another program's table is enough.
//
// Close waits for the handler to return. It may be called again, and returns the
// same.
func (q *Queue) Close() error {
	q.stop.Do(func() {
		q.drainBy = time.Now().Add(drainLimit)
		close(q.stopping)
		q.wake()
		<-q.done
		q.closeErr = errors.Join(q.err, q.nf.Close())
	})
	return q.closeErr
}

// wake ends a receive that blocks, with a timeout. It fails only on a closed
// socket, on which no receive blocks.
func (q *Queue) wake() { _ = q.conn.SetReadDeadline(time.Unix(1, 0)) }
