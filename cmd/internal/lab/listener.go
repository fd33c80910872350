package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Listener waits on a host for clients, of whose connections the test itself
// plays the other end.
type Listener struct {
	host *Host
	tcp  *net.TCPListener
}

// Listen listens on the host's address. Connections wait until they are accepted.
func Listen(h *Host) (*Listener, error) {
	l, err := h.Listen(netip.AddrPortFrom(h.Addr, Port))
	if err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	return &Listener{host: h, tcp: l}, nil
}

// Accept takes the next client and answers its Start-Control-Connection-Request.
// What it returns places and answers calls as a client does; its Server is the
// client that it serves.
func (l *Listener) Accept(within time.Duration) (*Client, error) {
	if err := l.tcp.SetDeadline(deadline(within)); err != nil {
		return nil, fmt.Errorf("accept client: %w", err)
	}
	conn, err := l.tcp.AcceptTCP()
	if err != nil {
		return nil, fmt.Errorf("accept client: %w", err)
	}
	g, err := OpenGRE(l.host, l.host.Addr)
	if err != nil {
		return nil, fmt.Errorf("accept client: %w", errors.Join(err, conn.Close()))
	}
	c := &Client{Control: NewControl(conn), GRE: g, Host: l.host, Server: remote(conn).Addr()}
	if err := c.welcome(within); err != nil {
		return nil, fmt.Errorf("accept client: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

func (c *Client) welcome(within time.Duration) error {
	if _, err := c.Expect(StartRequest, within); err != nil {
		return err
	}
	return c.Send(NewStartReply(ResultOK))
}

// Close stops listening; accepted clients stay.
func (l *Listener) Close() error { return l.tcp.Close() }
