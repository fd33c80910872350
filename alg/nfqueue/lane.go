package nfqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// lookAfter is how many turns pass at most before a lane looks for lost packets.
const lookAfter = 16

// lane is one queue of a Fast: its socket and, while it runs, the one goroutine that
// uses it.
//
//	recvmmsg ─► slots ─► handler ─► rulings, written into the slots ─► one writev
//
// From receive to send nothing is copied and nothing is allocated.
type lane struct {
	cfg     Config // Queue is this lane's
	mark    uint32
	handler Handler
	halt    *halt
	conn    *netlink.Conn
	raw     syscall.RawConn
	fd      uintptr // conn's, which nobody closes while the lane runs
	in      *inbox
	out     *outbox

	send func(parts []unix.Iovec) error
	take func(fd uintptr) bool // receives into n and err; made once, for it would be allocated
	n    int
	err  error

	last    uint32 // ID of the last packet, 0 before the first
	trouble trouble
	fatal   error  // what ended the queue
	lost    uint32 // messages that the socket had no room for, when last looked
	turns   int    // since
}

func newLane(cfg FastConfig, queue uint16, h Handler, stop *halt) *lane {
	l := &lane{cfg: cfg.Config, mark: cfg.Mark, handler: h, halt: stop, in: newInbox(cfg.Batch)}
	l.cfg.Queue = queue
	l.trouble.cfg = &l.cfg
	l.out = newOutbox(queue, cfg.Batch, l.dispatch)
	l.send = func(parts []unix.Iovec) error { return send(l.fd, parts) }
	l.take = l.receive
	return l
}

// open binds the queue. Where firewall rules stand already packets come while it is
// set up; see Queue.bind for why they are kept from the socket, and dropped at last.
func (l *lane) open() (err error) {
	l.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	if err := l.setUp(); err != nil {
		return errors.Join(err, l.conn.Close())
	}
	return nil
}

func (l *lane) setUp() error {
	if err := l.setOptions(); err != nil {
		return err
	}
	if err := l.conn.SetBPF(answersOnly); err != nil {
		return fmt.Errorf("set socket filter: %w", err)
	}
	if _, err := l.conn.Execute(bindMessage(l.cfg)); err != nil {
		return err
	}
	if err := l.conn.RemoveBPF(); err != nil {
		return fmt.Errorf("remove socket filter: %w", err)
	}
	if err := l.ruleAll(nfDrop); err != nil {
		return fmt.Errorf("drop packets from before: %w", err)
	}
	return nil
}

// setOptions sizes the socket's buffers and says how it tells of trouble.
//
// NoENOBUFS: without it a socket whose buffer is full takes no more messages until
// it has been read empty (NETLINK_S_CONGESTED in netlink_attachskb), which turns one
// packet too many into a burst of lost ones. What is lost is read from the socket
// instead. CapAcknowledge: a refused verdict comes back without its packet; a kernel
// before 4.3 does not know it.
func (l *lane) setOptions() (err error) {
	if err := l.conn.SetReadBuffer(l.cfg.ReadBuffer); err != nil {
		return fmt.Errorf("set receive buffer to %d bytes: %w", l.cfg.ReadBuffer, err)
	}
	if err := l.conn.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("set NETLINK_NO_ENOBUFS: %w", err)
	}
	_ = l.conn.SetOption(netlink.CapAcknowledge, true)
	if l.raw, err = l.conn.SyscallConn(); err != nil {
		return err
	}
	return l.raw.Control(func(fd uintptr) { l.fd = fd })
}

// bindMessage asks the kernel for a queue. It carries out all of a message's
// commands in one step (nfqnl_recv_config), so that no packet comes to a queue that
// is half set up.
func bindMessage(cfg Config) netlink.Message {
	const (
		cfgCmd, cfgParams, cfgMaxLen = 1, 2, 3 // enum nfqnl_attr_config
		cmdBind, copyPacket          = 1, 2    // NFQNL_CFG_CMD_BIND, NFQNL_COPY_PACKET
	)
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Bytes(cfgCmd, []byte{cmdBind, 0, 0, unix.AF_INET})
	e.Bytes(cfgParams, append(binary.BigEndian.AppendUint32(nil, maxPacketLen), copyPacket))
	e.Uint32(cfgMaxLen, cfg.MaxLen)
	attrs, _ := e.Encode() // fails only on an attribute that is too long
	return netlink.Message{
		Header: netlink.Header{Type: typeConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, 0}, cfg.Queue), attrs...),
	}
}

// ruleAll gives every waiting packet a verdict.
func (l *lane) ruleAll(verdict uint32) error {
	r, b := ruling{verdict: verdict, id: l.last + allIDs}, make([]byte, headLen)
	part := unix.Iovec{Base: &b[0]}
	part.SetLen(r.write(b, typeBatch, l.cfg.Queue))
	return l.send([]unix.Iovec{part})
}

// run decides on packets until the queue is stopped or dies, and returns why it died.
func (l *lane) run() error {
	for l.fatal == nil && !l.halt.called() {
		switch err := l.raw.Read(l.take); {
		case errors.Is(err, os.ErrDeadlineExceeded): // woken by stop
		case err != nil:
			l.fatal = l.trouble.socket(err)
		default:
			l.turn()
		}
	}
	l.drain()
	return l.close()
}

// drain decides on what waits when the queue is stopped.
func (l *lane) drain() {
	for l.fatal == nil && l.take(l.fd) && time.Now().Before(l.halt.by) {
		l.turn()
	}
}

// close accepts what still waits, because it came too late or the socket is dead, and
// gives the queue back.
func (l *lane) close() error {
	if err := l.ruleAll(nfAccept); err != nil {
		l.cfg.Failed(fmt.Errorf("accept what waits: %w", err))
	}
	return errors.Join(l.fatal, l.conn.Close())
}

// stop ends a receive that waits, with a timeout. It fails only on a closed socket,
// on which none waits.
func (l *lane) stop() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }

// receive takes messages into the slots and reports whether there were any, or an
// error.
func (l *lane) receive(fd uintptr) bool {
	l.n, l.err = l.in.receive(fd)
	if l.turns++; l.err != nil || l.turns == lookAfter {
		l.turns = 0
		l.lookForLost(fd)
	}
	return l.err != unix.EAGAIN
}

// lookForLost tells of packets that the kernel dropped for want of room.
func (l *lane) lookForLost(fd uintptr) {
	if now := lost(fd); now != l.lost {
		l.lost = now
		l.cfg.Overrun()
	}
}

// turn deals with what was received.
func (l *lane) turn() {
	if l.err != nil {
		l.fatal = l.trouble.socket(os.NewSyscallError("recvmmsg", l.err))
		return
	}
	for i := range l.n {
		slot, message, cut := l.in.message(i)
		switch messageType(message) {
		case typePacket:
			l.packet(slot, message, cut)
		case unix.NLMSG_ERROR:
			l.answered(answer(message))
		}
	}
	l.out.flush()
}

func (l *lane) packet(slot, message []byte, cut bool) {
	q, ok := parsePacket(message, cut)
	if !ok {
		l.cfg.Failed(errNoPacketID)
		return
	}
	l.last = q.id
	v, panicked := l.handler.decide(q.Packet)
	l.rule(slot, q, v)
	l.trouble.received()
	if panicked != nil {
		l.out.flush()
		l.cfg.Panicked(panicked.value, panicked.stack)
	}
}

// rule writes the verdict on a packet.
func (l *lane) rule(slot []byte, q queued, v Verdict) {
	r := ruling{verdict: nfAccept, id: q.id}
	if v == AcceptModified && (q.Truncated || len(q.Payload) == 0) {
		v = Accept // the kernel would cut the packet to what it was given
	}
	if l.mark != 0 && (v == AcceptModified || v == AcceptMarked) {
		r.mark, r.marks = q.Mark|l.mark, true
	}
	switch v {
	case AcceptModified:
		l.out.modify(slot, slotRoom+q.at, len(q.Payload), r)
	case Drop:
		r.verdict = nfDrop
		l.out.drop(slot, r)
	default:
		l.out.accept(slot, r)
	}
}

// answered deals with the kernel's answer to a verdict: it says nothing of one that
// it carried out.
func (l *lane) answered(errno unix.Errno) {
	if errno == 0 {
		return
	}
	if err := l.trouble.refused(errno, l.last); err != nil {
		l.fatal = err
	}
}

// dispatch sends rulings. If the kernel has no memory for all at once, it takes them
// one by one: a packet that cannot be sent modified is dropped, one that gets no
// verdict at all waits for the next run of accepted ones, or the end.
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
