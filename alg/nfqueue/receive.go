package nfqueue

import (
	"errors"
	"fmt"
	"os"
	"time"

	nfq "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

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
		return q.judged(q.trouble.failed(fmt.Errorf("set verdict: %w", err)))
	}
	q.trouble.received()
	return q.next()
}

// decide asks the handler, once Run lets it. A panic is an Accept.
func (q *Queue) decide(p Packet) (v Verdict, panicked *caught) {
	if !q.await() {
		return Accept, nil
	}
	return q.handler.decide(p)
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
	case refused(err):
		return q.judged(q.trouble.refused(err, q.last))
	}
	return q.judged(q.trouble.socket(err))
}

// judged ends the loop if there is an error to end it.
func (q *Queue) judged(err error) int {
	if err != nil {
		return q.finish(err)
	}
	return q.next()
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
