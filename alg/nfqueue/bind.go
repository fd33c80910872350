package nfqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	nfq "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What go-nfqueue's callbacks return.
const (
	goOn = 0
	end  = 1
)

// maxPacketLen asks for whole packets. The kernel lowers it to 65531.
const maxPacketLen = 0xffff

// allIDs, added to the ID of the last packet, lies after every waiting packet's:
// the kernel compares modulo 2^32 (nfq_id_after).
const allIDs = 1 << 30

// bind lets go-nfqueue bind and configure the queue, and takes over its socket and the
// goroutine in which it would receive:
//
//	go-nfqueue   bind, configure ── Receive ─┐ fails
//	lane                          deadline ──┘ receiveFailed: serve ── end ── close, which unbinds
//
// If firewall rules are loaded already, for example after a crash, packets come while the
// queue is set up. None comes cut: until the copy mode is set, in one step with the copy
// length, the kernel drops them. From then on go-nfqueue, which has one more setting to
// make, would take a packet for the kernel's answer and fail, and later receive packets
// itself. So a filter keeps packets from the socket until admit.
func (l *lane) bind() (err error) {
	l.nf, err = nfq.Open(&nfq.Config{
		NfQueue:      l.cfg.Queue,
		MaxQueueLen:  l.cfg.MaxLen,
		MaxPacketLen: maxPacketLen,
		Copymode:     nfq.NfQnlCopyPacket,
		AfFamily:     unix.AF_INET,
	})
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	l.conn = l.nf.Con
	if err := l.register(); err != nil {
		return errors.Join(err, l.nf.Close(), l.closeSocket())
	}
	_ = l.conn.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed socket, on which no receive waits
	<-l.taken
	return nil
}

func (l *lane) register() error {
	if err := l.setOptions(); err != nil {
		return err
	}
	if err := l.conn.SetBPF(answersOnly); err != nil {
		return fmt.Errorf("set socket filter: %w", err)
	}
	return l.nf.RegisterWithErrorFunc(context.Background(), received, l.receiveFailed)
}

// setOptions sizes the socket's buffer and says how it tells of trouble.
//
// NoENOBUFS: without it a socket whose buffer is full takes no more messages until it has
// been read empty (NETLINK_S_CONGESTED in netlink_attachskb), so that one packet too many
// loses many. The number of lost packets is read from the socket instead. CapAcknowledge: a
// refused verdict comes back without its packet; a kernel before 4.3 does not know it.
func (l *lane) setOptions() (err error) {
	if err := l.conn.SetReadBuffer(l.cfg.ReadBuffer); err != nil {
		return fmt.Errorf("set receive buffer to %d bytes: %w", l.cfg.ReadBuffer, err)
	}
	if err := l.conn.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("set NETLINK_NO_ENOBUFS: %w", err)
	}
	_ = l.conn.SetOption(netlink.CapAcknowledge, true)
	return l.copySocket()
}

// copySocket gives the lane a descriptor of its own for go-nfqueue's socket.
func (l *lane) copySocket() error {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var copied int
		copied, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		l.fd = uintptr(copied)
	})
	if failed != nil {
		failed = fmt.Errorf("copy socket: %w", failed)
	}
	return errors.Join(err, failed)
}

// received is go-nfqueue's callback for a message. The filter lets only answers come, which
// say nothing.
func received(nfq.Attribute) int { return goOn }

// receiveFailed is go-nfqueue's callback for a receive that failed: bind woke it, or there
// is an error that serve will meet as well.
func (l *lane) receiveFailed(error) int {
	l.serve()
	return end
}

// admit lets packets come, and drops earlier ones; TCP sends them again. The drop comes
// last: a packet that was never received would keep its place, and its sender's buffer, for
// ever. A packet that comes in between is handled like any other, and its verdict is
// refused.
func (l *lane) admit() error {
	if err := l.conn.RemoveBPF(); err != nil {
		return fmt.Errorf("remove socket filter: %w", err)
	}
	if err := l.ruleAll(allIDs, nfDrop); err != nil {
		return fmt.Errorf("drop packets from before: %w", err)
	}
	return l.leavePoller()
}

// leavePoller takes the socket out of Go's poller, into which go-nfqueue has put it. The
// poller would wake up for each packet that comes while nothing waits for one, and then
// wake a thread that finds nothing to do. That is half of a packet's cost when packets come
// one by one.
func (l *lane) leavePoller() error {
	if err := l.conn.Close(); err != nil {
		return fmt.Errorf("take over socket: %w", err)
	}
	if err := unix.SetNonblock(int(l.fd), false); err != nil {
		return fmt.Errorf("set socket to blocking: %w", err)
	}
	return nil
}

// wake ends a receive that waits, by a message that means nothing and asks for an answer.
// If no receive waits now, the answer ends the next one. If the answer finds no room in the
// socket's buffer, a receive has packets and does not wait.
func (l *lane) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	b := make([]byte, unix.NLMSG_HDRLEN)
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[atType:], unix.NLMSG_NOOP)
	native.PutUint16(b[atFlags:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if _, err := unix.Write(int(l.fd), b); err != nil {
		l.cfg.Failed(fmt.Errorf("wake receive: %w", err))
	}
}

// tellZones has later packets come with their zones.
func (l *lane) tellZones() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if _, err := unix.Write(int(l.fd), tellZones(l.cfg.Queue)); err != nil {
		return fmt.Errorf("ask for conntrack entries with the packets of queue %d: %w", l.cfg.Queue, err)
	}
	return nil
}

// closeSocket also unbinds the queue (nfqnl_rcv_nl_event).
func (l *lane) closeSocket() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return os.NewSyscallError("close", unix.Close(int(l.fd)))
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
	return uint32(binary.BigEndian.Uint16(native.AppendUint16(nil, unix.NLMSG_ERROR)))
}
