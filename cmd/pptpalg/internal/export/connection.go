package export

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/cmd/pptpalg/internal/sockets"
)

const (
	dialTime  = 10 * time.Second // to find the collector's address, connect, and begin TLS
	writeTime = 30 * time.Second // for a message
	// refusal is how long the word may take that nobody listens where a datagram went.
	refusal = 200 * time.Millisecond
	// lifetime is how long datagrams go to one address: then the name is looked up again.
	lifetime = 10 * time.Minute
)

// connection is one to a collector.
type connection struct {
	net.Conn
	raw    *meter
	broken chan error       // has an error when the collector has ended it, or refuses datagrams
	until  <-chan time.Time // when it is to be made anew; nil for never
}

// meter counts what was written.
type meter struct {
	net.Conn
	written atomic.Uint64
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	m.written.Add(uint64(n))
	return n, err
}

// connect connects to a collector. The caller must close the connection.
func connect(ctx context.Context, t *Target) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	secure, err := t.tls()
	if err != nil {
		return nil, err
	}
	address := t.path
	if address == "" {
		address = net.JoinHostPort(t.host, t.port)
	}
	raw, err := (&net.Dialer{Control: giveUp}).DialContext(ctx, t.kind.network, address)
	if err != nil {
		return nil, plain(err)
	}
	c := &connection{raw: &meter{Conn: raw}, broken: make(chan error, 1)}
	c.Conn = c.raw
	if secure != nil {
		client := tls.Client(c.raw, secure)
		if err := client.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("begin TLS: %w", err), raw.Close())
		}
		c.Conn = client
	}
	if t.kind.network == "udp" {
		c.until = time.After(lifetime)
	}
	go c.watch()
	return c, nil
}

// giveUp has TCP end a connection over which the collector has acknowledged nothing for as
// long as a message may take.
func giveUp(network, _ string, c syscall.RawConn) error {
	if network[:3] != "tcp" {
		return nil
	}
	return c.Control(func(fd uintptr) {
		// Without it, TCP goes on for a quarter of an hour.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(writeTime.Milliseconds()))
	})
}

// plain leaves out what net says of sockets and of name servers.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return sockets.Plain(err)
}

// watch waits until the collector ends the connection. What it says is not read.
func (c *connection) watch() {
	_, err := io.Copy(io.Discard, c.Conn)
	if err == nil {
		err = errors.New("the collector has ended the connection")
	}
	c.broken <- plain(err)
}

// send writes a message.
func (c *connection) send(message []byte) error {
	if len(message) == 0 {
		return nil
	}
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	_, err := c.Write(message)
	return plain(err)
}

// has returns a function that tells which messages the collector's machine has: over TCP
// those it has acknowledged, else those that nobody refused in time.
func (c *connection) has(now time.Time) func(*item) bool {
	switch c.raw.RemoteAddr().Network() {
	case "tcp":
		acknowledged := c.acknowledged()
		return func(i *item) bool { return i.end <= acknowledged }
	case "udp":
		return func(i *item) bool { return now.Sub(i.sent) >= refusal }
	}
	return func(*item) bool { return true }
}

// acknowledged returns how many of the bytes written the other machine has.
func (c *connection) acknowledged() uint64 {
	written := c.raw.written.Load()
	socket, err := c.raw.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0
	}
	queued := int(written)
	_ = socket.Control(func(fd uintptr) {
		if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			queued = n
		}
	})
	return written - min(uint64(queued), written)
}
