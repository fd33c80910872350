package ctnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink socket, as far as Conn uses one.
type socket interface {
	// SendMessages sends messages in one datagram, and returns them with their
	// sequence numbers, which follow each other.
	SendMessages([]netlink.Message) ([]netlink.Message, error)
	// receive waits for a datagram and returns its messages, which are valid
	// until the next call.
	receive() ([]netlink.Message, error)
	Close() error
}

// bufferSize holds the largest datagram that the kernel makes of a dump, 32 KiB
// (netlink_recvmsg in af_netlink.c).
const bufferSize = 64 << 10

// kernelSocket is the socket to the kernel. It receives by itself, because
// netlink.Conn waits for NLMSG_DONE after each message marked NLM_F_MULTI, and
// ctnetlink marks even the one entry of a GET so (ctnetlink_fill_info), which no
// NLMSG_DONE follows.
type kernelSocket struct {
	*netlink.Conn
	raw  syscall.RawConn
	buf  []byte
	msgs []netlink.Message // of the latest datagram, in buf
}

func dialKernel() (socket, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	raw, err := nl.SyscallConn()
	if err != nil {
		nl.Close()
		return nil, err
	}
	return &kernelSocket{Conn: nl, raw: raw, buf: make([]byte, bufferSize)}, nil
}

func (s *kernelSocket) receive() ([]netlink.Message, error) {
	var n int
	var err error
	waitErr := s.raw.Read(func(fd uintptr) bool {
		// MSG_TRUNC asks for the datagram's length, even if it does not fit.
		n, _, err = unix.Recvfrom(int(fd), s.buf, unix.MSG_TRUNC)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waitErr != nil:
		return nil, fmt.Errorf("receive: %w", waitErr)
	case err != nil:
		return nil, fmt.Errorf("receive: %w", err)
	case n > len(s.buf):
		return nil, fmt.Errorf("receive: %w", errTruncated)
	}
	s.msgs, err = split(s.msgs[:0], s.buf[:n])
	return s.msgs, err
}

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

// ends reports whether a message is the last of an answer. A request that is not
// a dump asks for an acknowledgement, so each answer has such an end.
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
