package nfqueue

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A slot holds one message: room before it for a verdict, the message, and a
// verdict's padding. The largest message is a payload of 65531 bytes and less than
// 1 KiB of attributes.
const (
	slotRoom = 64
	slotLen  = 66 << 10
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// inbox receives up to a number of messages with one system call. It reuses its buffers
// with every call.
type inbox struct {
	buf     []byte
	headers []mmsghdr
	iovecs  []unix.Iovec
}

func newInbox(slots int) *inbox {
	in := &inbox{
		buf:     make([]byte, slots*slotLen),
		headers: make([]mmsghdr, slots),
		iovecs:  make([]unix.Iovec, slots),
	}
	for i := range in.headers {
		in.iovecs[i].Base = &in.slot(i)[slotRoom]
		in.iovecs[i].SetLen(slotLen - slotRoom - attrLen)
		in.headers[i].hdr.Iov = &in.iovecs[i]
		in.headers[i].hdr.SetIovlen(1)
	}
	return in
}

func (in *inbox) slot(i int) []byte { return in.buf[i*slotLen:][:slotLen:slotLen] }

// message returns a slot and the message in it, which starts at slotRoom. Cut says
// that the message is longer.
func (in *inbox) message(i int) (slot, message []byte, cut bool) {
	slot = in.slot(i)
	h := &in.headers[i]
	return slot, slot[slotRoom:][:h.n], h.hdr.Flags&unix.MSG_TRUNC != 0
}

// How receive waits.
const (
	atOnce = unix.MSG_DONTWAIT   // not at all: EAGAIN is nothing
	forOne = unix.MSG_WAITFORONE // for the first message
)

// receive takes what waits. A receive that does not wait takes microseconds, so Go's
// scheduler is not told of it: it would hand the thread's place to another, and back.
func (in *inbox) receive(fd, how uintptr) (int, error) {
	call := unix.Syscall6
	if how == atOnce {
		call = unix.RawSyscall6
	}
	for {
		n, _, errno := call(unix.SYS_RECVMMSG, fd,
			uintptr(unsafe.Pointer(&in.headers[0])), uintptr(len(in.headers)), how, 0, 0)
		runtime.KeepAlive(in)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}

// send sends the parts as one datagram to the kernel, to which an unconnected netlink
// socket writes. The kernel releases the packets, some microseconds for each, and never
// waits: as for receive, the scheduler is not told.
func send(fd uintptr, parts []unix.Iovec) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts)))
		runtime.KeepAlive(parts)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return os.NewSyscallError("writev", errno)
		}
		return nil
	}
}

// lost returns how many messages the socket had no room for (sk_drops, the last
// number of SO_MEMINFO), 0 if the kernel does not say.
func lost(fd uintptr) uint32 {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return info[unix.SK_MEMINFO_DROPS]
}
