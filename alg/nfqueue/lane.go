package nfqueue

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	nfq "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// lookAfter is the maximum number of turns before a lane looks for lost packets.
const lookAfter = 16

var errNoPacketID = errors.New("receive packet: the kernel gave no packet ID, so it gets no verdict")

// lane is one NFQUEUE of a Queue: its socket, and the one goroutine that uses it.
//
//	recvmmsg ─► slots ─► handler ─► rulings, written into the slots ─► Settle ─► writev ─► Released
//
// From receive to send nothing is copied and nothing is allocated.
type lane struct {
	cfg     Config // Queue is this lane's
	handler Handler
	course  *course
	stop    func() // the Queue's

	nf    *nfq.Nfqueue
	conn  *netlink.Conn // nf's
	fd    uintptr       // a copy of conn's, which stays open while the lane serves
	taken chan struct{} // closed when serve begins
	done  chan struct{} // closed when it ends

	mu     sync.Mutex // guards closed
	closed bool       // fd

	// From here on the serving goroutine's.
	in   *inbox
	out  *outbox
	send func(parts []unix.Iovec) error
	n    int
	err  error
	q    queued // the packet in work; kept here, to avoid an allocation

	last    uint32 // ID of the last packet, 0 before the first
	decided bool   // on a packet, since Settle was called
	panics  []caught
	trouble trouble
	fatal   error  // what ended the queue; read by others after done
	lost    uint32 // messages that the socket had no room for, when last looked
	turns   int    // since
}

// caught is a panic.
type caught struct {
	value any
	stack []byte
}

func newLane(cfg Config, h Handler, c *course, stop func()) *lane {
	l := &lane{
		cfg: cfg, handler: h, course: c, stop: stop,
		taken: make(chan struct{}), done: make(chan struct{}),
		in: newInbox(cfg.Batch),
	}
	l.trouble.cfg = &l.cfg
	l.out = newOutbox(cfg.Queue, cfg.Batch, l.dispatch)
	l.send = func(parts []unix.Iovec) error { return send(l.fd, parts) }
	return l
}

// serve decides on packets from Run on, until the queue is stopped or dies.
func (l *lane) serve() {
	defer close(l.done)
	close(l.taken)
	if l.course.await() {
		l.run()
	}
	l.finish()
}

func (l *lane) run() {
	for l.fatal == nil && !l.course.stopped() {
		l.await()
		l.turn()
	}
	l.drain()
}

// await receives what there is, or waits for it. Before it waits it lets other threads run
// once: on a busy machine they send more packets meanwhile, and waking up for each packet
// costs more than the packet.
func (l *lane) await() {
	if l.receive(atOnce) {
		return
	}
	unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	if l.receive(atOnce) {
		return
	}
	l.lookForLost(l.fd)
	l.receive(forOne)
}

// drain decides on the packets that wait when the queue is stopped.
func (l *lane) drain() {
	for l.fatal == nil && !l.course.over() && l.receive(atOnce) {
		l.turn()
	}
}

// finish accepts the packets that still wait, because they came too late or the socket is
// dead.
func (l *lane) finish() {
	if err := l.ruleAll(l.last+allIDs, nfAccept); err != nil {
		l.cfg.Failed(fmt.Errorf("accept what waits: %w", err))
	}
	l.stop()
}

// ruleAll gives all packets up to an ID a verdict.
func (l *lane) ruleAll(id, verdict uint32) error {
	b := make([]byte, headLen)
	r := ruling{verdict: verdict, id: id}
	part := unix.Iovec{Base: &b[0]}
	part.SetLen(r.write(b, typeBatch, l.cfg.Queue))
	return l.send([]unix.Iovec{part})
}

// close waits for the goroutine to end, and returns why if it was not stopped.
func (l *lane) close() error {
	<-l.done
	err := l.closeSocket()
	if e := l.nf.Close(); !errors.Is(e, os.ErrClosed) { // it is, if the lane has taken it over
		err = errors.Join(err, e)
	}
	return errors.Join(l.fatal, err)
}

// receive takes messages into the slots and reports whether there were any, or an
// error.
func (l *lane) receive(how uintptr) bool {
	l.n, l.err = l.in.receive(l.fd, how)
	if l.err == unix.EAGAIN {
		return false
	}
	if l.turns++; l.err != nil || l.turns == lookAfter {
		l.turns = 0
		l.lookForLost(l.fd)
	}
	return true
}

// lookForLost reports packets that the kernel dropped because a buffer was full.
func (l *lane) lookForLost(fd uintptr) {
	if now := lost(fd); now != l.lost {
		l.lost = now
		l.cfg.Overrun()
	}
}

// turn handles what was received. Packets still undecided at the drain deadline are
// accepted.
func (l *lane) turn() {
	if l.err != nil {
		l.fatal = l.trouble.socket(os.NewSyscallError("recvmmsg", l.err))
		return
	}
	for i := 0; i < l.n && !l.course.over(); i++ {
		l.message(l.in.message(i))
	}
	settled, release := l.settle()
	if !release {
		l.drop()
	}
	l.out.flush()
	if settled {
		l.released()
	}
	l.tellPanics()
}

func (l *lane) message(slot, message []byte, cut bool) {
	switch messageType(message) {
	case typePacket:
		l.packet(slot, message, cut)
	case unix.NLMSG_ERROR:
		l.answered(answer(message))
	}
}

func (l *lane) packet(slot, message []byte, cut bool) {
	var ok bool
	if l.q, ok = parsePacket(message, cut); !ok {
		l.cfg.Failed(errNoPacketID)
		return
	}
	l.last, l.decided = l.q.id, true
	q := l.q
	v, mark := l.decide()
	l.rule(slot, q, v, mark)
	l.trouble.received()
}

// decide asks the handler. A panic means Accept.
func (l *lane) decide() (v Verdict, mark uint32) {
	mark = l.q.Mark
	defer l.catch()
	v = l.handler(&l.q.Packet)
	return v, l.q.Mark
}

// settle calls Settle if there was a packet. It reports whether Settle returned, and whether the
// rulings stay. They do after a panic: each is right for its packet, and the packets wait.
func (l *lane) settle() (settled, release bool) {
	release = true
	if !l.decided {
		return false, release
	}
	l.decided = false
	defer l.catch()
	release = l.cfg.Settle()
	return true, release
}

// drop drops all packets of the turn, whatever was decided on them.
func (l *lane) drop() {
	l.out.discard()
	if err := l.ruleAll(l.last, nfDrop); err != nil {
		l.cfg.Failed(fmt.Errorf("drop packets: %w", err))
	}
}

func (l *lane) released() {
	defer l.catch()
	l.cfg.Released()
}

// catch, deferred, ends a panic and keeps it until the verdicts are given.
func (l *lane) catch() {
	if value := recover(); value != nil {
		l.panics = append(l.panics, caught{value: value, stack: debug.Stack()})
	}
}

func (l *lane) tellPanics() {
	for _, c := range l.panics {
		l.cfg.Panicked(c.value, c.stack)
	}
	l.panics = nil
}

// rule writes the verdict on a packet.
func (l *lane) rule(slot []byte, q queued, v Verdict, mark uint32) {
	r := ruling{verdict: v.ruling(), id: q.id, mark: mark, marks: mark != q.Mark}
	switch {
	case v == Drop:
		r.marks = false
		l.out.drop(slot, r)
	case v.modifies() && !q.Truncated && len(q.Payload) > 0: // else the kernel would cut the packet to the bytes it gets
		l.out.modify(slot, slotRoom+q.at, len(q.Payload), r)
	default:
		l.out.accept(slot, r)
	}
}

// answered handles the kernel's answer to a verdict. The kernel sends none for a verdict
// that it carried out.
func (l *lane) answered(errno unix.Errno) {
	if errno == 0 {
		return
	}
	if err := l.trouble.refused(errno, l.last); err != nil {
		l.fatal = err
	}
}

// dispatch sends rulings. If the kernel has no memory for all at once, it sends them one by
// one. A packet that cannot be sent modified is dropped; one that gets no verdict at all
// waits for the next run of accepted packets, or the end.
func (l *lane) dispatch(parts []unix.Iovec) {
	if l.send(parts) == nil {
		return
	}
	for i := range parts {
		part := parts[i : i+1]
		for err := l.send(part); err != nil; err = l.send(part) {
			if err := l.trouble.failed(fmt.Errorf("set verdict: %w", err)); err != nil {
				l.fatal = err
			}
			if !withoutPayload(&parts[i]) {
				break
			}
		}
	}
}
