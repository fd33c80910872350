package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink socket, as far as Conn uses one.
type socket interface {
	// send sends messages, which lie one after the other in b, in one datagram.
	send(b []byte) error
	// receive waits for a datagram and returns its messages, which are valid
	// until the next call.
	receive() ([]netlink.Message, error)
	// port returns the socket's netlink port, by which events say who deleted an entry.
	port() uint32
	Close() error
}

// bufferSize holds the largest datagram that the kernel makes of a dump, 32 KiB
// (netlink_recvmsg in af_netlink.c).
const bufferSize = 64 << 10

// kernelSocket is the socket to the kernel. It does not use netlink.Conn, which starts a
// goroutine for each send and allocates for each message: several times the CPU time of
// everything else. It does not need the runtime's poller either, because the kernel answers
// before it returns from the send.
type kernelSocket struct {
	fd   int
	id   uint32 // its netlink port
	buf  []byte
	msgs []netlink.Message // of the latest datagram, in buf
}

func dialKernel() (socket, error) {
	fd, err := openNetlink(0)
	if err != nil {
		return nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("getsockname", err)
	}
	return &kernelSocket{fd: fd, id: name.(*unix.SockaddrNetlink).Pid, buf: make([]byte, bufferSize)}, nil
}

// openNetlink opens a netfilter netlink socket in the calling thread's network namespace. The
// kernel chooses its port.
func openNetlink(flags int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

func (s *kernelSocket) port() uint32 { return s.id }

// send needs no address: an unconnected netlink socket sends to the kernel
// (netlink_sendmsg), which has carried out the requests when the call returns. It does not
// wait for anything, so Go's scheduler is not told of it.
func (s *kernelSocket) send(b []byte) error {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	runtime.KeepAlive(b)
	if errno != 0 {
		return fmt.Errorf("send: %w", errno)
	}
	return nil
}

func (s *kernelSocket) receive() ([]netlink.Message, error) {
	n, err := unix.Read(s.fd, s.buf)
	switch {
	case err != nil:
		return nil, fmt.Errorf("receive: %w", err)
	case n == len(s.buf): // perhaps not all of it
		return nil, fmt.Errorf("receive: %w", errTruncated)
	}
	s.msgs, err = split(s.msgs[:0], s.buf[:n])
	return s.msgs, err
}

func (s *kernelSocket) Close() error { return unix.Close(s.fd) }

var errTruncated = errors.New("datagram cut short")

// split cuts a datagram into its messages, which lie in b, and appends them to
// msgs.
func split(msgs []netlink.Message, b []byte) ([]netlink.Message, error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := uint64(binary.NativeEndian.Uint32(b))
		aligned := (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		if length < unix.NLMSG_HDRLEN || aligned > uint64(len(b)) {
			return nil, fmt.Errorf("receive: %w", errTruncated)
		}
		var m netlink.Message
		if err := m.UnmarshalBinary(b[:aligned]); err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		msgs = append(msgs, m)
		b = b[aligned:]
	}
	return msgs, nil
}

// ends reports whether a message is the last of an answer. It is false for the entry that
// is the whole answer to a query for one.
func ends(m netlink.Message) bool {
	return m.Header.Type == netlink.Error || m.Header.Type == netlink.Done
}

// errno returns the error number that the last message of an answer carries, or
// nil where it says success.
func errno(m netlink.Message) error {
	if len(m.Data) < 4 {
		return nil // NLMSG_DONE need not have one
	}
	if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
