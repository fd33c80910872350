package nfqueue

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"

	nfq "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxFailures is how many errors in a row, with no packet between, mean that the
// socket is dead.
const maxFailures = 64

// What go-nfqueue's callbacks answer.
const (
	goOn = 0
	end  = 1
)

var errNoPacketID = errors.New("receive packet: the kernel gave no packet ID, so it gets no verdict")

// receive is go-nfqueue's callback for a packet.
func (q *Queue) receive(a nfq.Attribute) int {
	if a.PacketID == nil {
		q.cfg.Failed(errNoPacketID)
		return q.next()
	}
	q.last = *a.PacketID
	p := newPacket(a)
	v, panicked := q.decide(p)
	err := q.answer(p, v)
	if panicked != nil {
		q.cfg.Panicked(panicked.value, panicked.stack)
	}
	if err != nil {
		return q.failed(fmt.Errorf("set verdict: %w", err))
	}
	q.failures = 0
	return q.next()
}

// caught is a handler's panic.
type caught struct {
	value any
	stack []byte
}

// decide asks the handler, once Run lets it. A panic is an Accept.
func (q *Queue) decide(p Packet) (v Verdict, panicked *caught) {
	if !q.await() {
		return Accept, nil
	}
	defer func() {
		if value := recover(); value != nil {
			v, panicked = Accept, &caught{value: value, stack: debug.Stack()}
		}
	}()
	return q.handler(p), nil
}

// await waits for Run and reports whether it came before Close.
func (q *Queue) await() bool {
	select {
	case <-q.running:
		return true
	default:
	}
	select {
	case <-q.running:
		return true
	case <-q.stopping:
		return false
	}
}

// answer gives the kernel the verdict on the last packet. One that cannot be sent
// modified is dropped, for TCP to send it again. One that gets no verdict at all
// waits, and is accepted when the queue closes.
func (q *Queue) answer(p Packet, v Verdict) error {
	if v == AcceptModified && p.Truncated {
		v = Accept // the kernel would cut the packet to what it was given
	}
	err := q.verdict(q.last, v, p.Payload)
	if err == nil || v != AcceptModified {
		return err
	}
	q.cfg.Failed(fmt.Errorf("set verdict %v: %w", v, err))
	return q.verdict(q.last, Drop, nil)
}

// setVerdict sends one verdict. A verdict without a payload lets the kernel's own
// copy go on, which no handler can have touched.
func (q *Queue) setVerdict(id uint32, v Verdict, payload []byte) error {
	switch v {
	case AcceptModified:
		return q.nf.SetVerdictWithOption(id, nfq.NfAccept, nfq.WithAlteredPacket(payload))
	case Drop:
		return q.nf.SetVerdict(id, nfq.NfDrop)
	}
	return q.nf.SetVerdict(id, nfq.NfAccept)
}

// setVerdicts sends a verdict on every waiting packet up to the ID last.
func (q *Queue) setVerdicts(last uint32, v Verdict) error {
	if v == Drop {
		return q.nf.SetVerdictBatch(last, nfq.NfDrop)
	}
	return q.nf.SetVerdictBatch(last, nfq.NfAccept)
}

// receiveFailed is go-nfqueue's callback for a receive that gave no packet.
func (q *Queue) receiveFailed(err error) int {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return q.woken()
	case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
		return q.finish(fmt.Errorf("receive packets: %w", err))
	case refused(err):
		return q.verdictRefused(err)
	case errors.Is(err, unix.ENOBUFS):
		q.cfg.Overrun()
		return q.next()
	}
	return q.failed(fmt.Errorf("receive packet: %w", err))
}

// woken goes on to receive what waits, with a deadline that ends the drain.
func (q *Queue) woken() int {
	if err := q.conn.SetReadDeadline(q.drainBy); err != nil {
		return q.finish(fmt.Errorf("set receive deadline: %w", err))
	}
	return q.next()
}

// refused reports whether the kernel sent the error, in answer to a verdict. An
// error of the socket itself is an *os.SyscallError.
func refused(err error) bool {
	op := (*netlink.OpError)(nil)
	if !errors.As(err, &op) {
		return false
	}
	_, ok := op.Err.(unix.Errno)
	return ok
}

// verdictRefused tells a packet that is gone from a queue that is gone. ENOENT is
// the common one: the packet's interface went down and took it along. There may
// be as many as the queue is long, all in a row, so they are no sign of a dead
// socket.
func (q *Queue) verdictRefused(err error) int {
	if errors.Is(err, unix.ENOENT) && q.last == 0 {
		return q.next() // bind dropped what was not there
	}
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM) {
		return q.finish(fmt.Errorf("queue %d is no longer ours: %w", q.cfg.Queue, err))
	}
	q.cfg.Failed(fmt.Errorf("verdict refused: %w", err))
	return q.next()
}

// failed counts an error towards the socket's death.
func (q *Queue) failed(err error) int {
	q.failures++
	if q.failures >= maxFailures {
		return q.finish(fmt.Errorf("give up after %d errors in a row: %w", q.failures, err))
	}
	q.cfg.Failed(err)
	return q.next()
}

// next ends the loop when the queue is stopping and drained.
func (q *Queue) next() int {
	select {
	case <-q.stopping:
	default:
		return goOn
	}
	if q.waiting() && time.Now().Before(q.drainBy) {
		return goOn
	}
	return q.finish(nil)
}

// waiting reports whether a receive would find a message. An overrun that is told
// here is told only once, so it is passed on.
func (q *Queue) waiting() bool {
	for {
		err := q.peek()
		if !errors.Is(err, unix.ENOBUFS) {
			return err == nil
		}
		q.cfg.Overrun()
	}
}

// peek looks for a message without taking it or waiting for it: EAGAIN is none.
func (q *Queue) peek() error {
	raw, err := q.conn.SyscallConn()
	if err != nil {
		return err
	}
	var peeked error
	err = raw.Control(func(fd uintptr) {
		_, _, peeked = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return errors.Join(err, peeked)
}

// finish ends the loop. What still waits, because it came too late or the socket is
// dead, is accepted as it came.
func (q *Queue) finish(err error) int {
	if e := q.batch(q.last+allIDs, Accept); e != nil {
		q.cfg.Failed(fmt.Errorf("accept what waits: %w", e))
	}
	q.err = err
	close(q.done)
	return end
}
