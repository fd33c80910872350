package farm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

// patience is how long a client waits for any answer: longer than two
// retransmissions of TCP.
const patience = 10 * time.Second

// The messages, made once. Offsets of the IDs are those of RFC 2637.
var (
	startRequest = lab.NewStartRequest().Bytes()
	startReply   = lab.NewStartReply(lab.ResultOK).Bytes()
	callRequest  = lab.NewOutgoingCallRequest(0).Bytes()
	callReply    = lab.NewOutgoingCallReply(0, 0, lab.ResultOK).Bytes()
	clearRequest = lab.NewCallClearRequest(0).Bytes()
	notify       = lab.NewCallDisconnectNotify(0, 1).Bytes()
	echoRequest  = lab.NewEchoRequest(1).Bytes()
	echoReply    = lab.NewEchoReply(1, lab.ResultOK).Bytes()
)

const (
	offType = 8
	offID   = 12
	offPeer = 14
)

// client is one end of a control connection.
type client struct {
	file *os.File
	buf  [256]byte
	peer pptp.CallID // what the last reply gave for the server's
}

// newClient takes over a socket.
func newClient(fd int) *client { return &client{file: os.NewFile(uintptr(fd), "PPTP client")} }

// setUp connects, and places a call.
func (c *client) setUp(server netip.Addr, own pptp.CallID) error {
	if err := c.connect(server); err != nil {
		return err
	}
	if err := c.exchange(startRequest, len(startReply)); err != nil {
		return err
	}
	return c.call(own)
}

func (c *client) call(own pptp.CallID) error {
	if err := c.exchange(withID(c.buf[:0], callRequest, own), len(callReply)); err != nil {
		return err
	}
	if got := id(c.buf[offPeer:]); got != own {
		return fmt.Errorf("place call %v: the reply is for call %v", own, got)
	}
	c.peer = id(c.buf[offID:])
	return nil
}

func (c *client) clear(own pptp.CallID) error {
	return c.exchange(withID(c.buf[:0], clearRequest, own), len(notify))
}

// exchange sends a message and reads the answer into buf.
func (c *client) exchange(message []byte, answer int) error {
	if _, err := c.file.Write(message); err != nil {
		return fmt.Errorf("send control message: %w", err)
	}
	if _, err := io.ReadFull(c.file, c.buf[:answer]); err != nil {
		return fmt.Errorf("read answer to message type %d: %w", message[offType+1], err)
	}
	return nil
}

func (c *client) close() error { return c.file.Close() }

// connect connects the socket and waits until it is. The poller may say too early
// that a socket is writable, so what counts is whether it has a peer.
func (c *client) connect(server netip.Addr) error {
	if err := c.file.SetDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("connect to %v: %w", server, err)
	}
	raw, err := c.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("connect to %v: %w", server, err)
	}
	var failed error
	begun := false
	err = raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			failed = unix.Connect(int(fd), &unix.SockaddrInet4{Port: lab.Port, Addr: server.As4()})
			return !errors.Is(failed, unix.EINPROGRESS)
		}
		var connecting bool
		connecting, failed = connectState(int(fd))
		return !connecting
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("connect to %v: %w", server, err)
	}
	return nil
}

func connectState(fd int) (connecting bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return false, err
	}
	if code != 0 {
		return false, unix.Errno(code)
	}
	_, err = unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return true, nil
	}
	return false, err
}

func id(b []byte) pptp.CallID { return pptp.CallID(binary.BigEndian.Uint16(b)) }

// withID appends a message to b, and the ID to it in its place.
func withID(b, message []byte, own pptp.CallID) []byte {
	b = append(b, message...)
	binary.BigEndian.PutUint16(b[offID:], uint16(own))
	return b
}

// sockets are made many at a time, because every way into a namespace costs.
type sockets struct {
	fds []int
	err error
}

const socketsAtOnce = 128

// sockets makes n sockets in the clients' namespace. All must be received, up to an
// error.
func (f *Farm) sockets(n int, from func(i int) netip.AddrPort) <-chan sockets {
	out := make(chan sockets, 2)
	go func() {
		defer close(out)
		for made := 0; made < n; {
			s := f.someSockets(made, min(socketsAtOnce, n-made), from)
			out <- s
			if s.err != nil {
				return
			}
			made += len(s.fds)
		}
	}()
	return out
}

func (f *Farm) someSockets(first, n int, from func(i int) netip.AddrPort) (s sockets) {
	s.err = f.client.Do(func() error {
		for i := range n {
			fd, err := socket(from(first + i))
			if err != nil {
				return err
			}
			s.fds = append(s.fds, fd)
		}
		return nil
	})
	return s
}

func socket(from netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	if from.Port() == 0 { // chosen by connect, which knows what is free towards this server
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(from.Port()), Addr: from.Addr().As4()}))
	if err != nil {
		return -1, fmt.Errorf("bind socket to %v: %w", from, errors.Join(err, unix.Close(fd)))
	}
	return fd, nil
}
