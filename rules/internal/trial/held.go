package trial

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/conntrack"
)

// Held is a connection that lasts as long as the test wants.
type Held struct {
	client net.Conn
	echoed chan error
}

// Hold opens a connection from the client to the gateway's public port.
func Hold(t *testing.T, client, server Namespace) Held {
	t.Helper()
	h := Held{echoed: make(chan error, 1)}
	var l net.Listener
	server.Do(t, func() (err error) { l, err = net.Listen("tcp4", ":2000"); return err })
	defer l.Close()
	client.Do(t, func() (err error) { h.client, err = net.Dial("tcp4", "10.0.1.1:1723"); return err })
	t.Cleanup(func() { h.client.Close() })
	accepted := make(chan struct{})
	go func() {
		h.echoed <- Echo(acceptOnce{l, accepted})
	}()
	<-accepted
	h.Say(t)
	return h
}

// acceptOnce tells when it has accepted a connection.
type acceptOnce struct {
	net.Listener
	accepted chan struct{}
}

func (a acceptOnce) Accept() (net.Conn, error) {
	defer close(a.accepted)
	return a.Listener.Accept()
}

// Say sends a message and waits for its echo.
func (h Held) Say(t *testing.T) {
	t.Helper()
	h.client.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := h.client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(h.client, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}

// End sends much more, and closes the connection from both ends.
func (h Held) End(t *testing.T) {
	t.Helper()
	if _, err := Talk(h.client); err != nil {
		t.Fatal(err)
	}
	if err := <-h.echoed; err != nil {
		t.Fatal(err)
	}
}

// Tuple returns the connection as its packets come in.
func (h Held) Tuple() calls.Tuple {
	ap := func(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
	return calls.Tuple{Src: ap(h.client.LocalAddr()), Dst: ap(h.client.RemoteAddr())}
}

// LeaveAlone is what the daemon does.
func (h Held) LeaveAlone(t *testing.T, gateway Namespace, b conntrack.Bypass) {
	t.Helper()
	var c *conntrack.Conn
	gateway.Do(t, func() (err error) { c, err = conntrack.Dial(); return err })
	defer c.Close()
	conn, err := c.Connection(h.Tuple())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Leave(conn.Original, conn.Zone, b); err != nil {
		t.Fatal(err)
	}
}

// Echo serves one connection until its peer closes.
func Echo(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(15 * time.Second))
	_, err = io.Copy(struct{ io.Writer }{c}, c)
	return err
}

// Talk sends messages, reads each back before the next, closes and waits for the
// peer to close as well.
func Talk(c net.Conn) (sent []byte, err error) {
	c.SetDeadline(time.Now().Add(15 * time.Second))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 100 {
		message := bytes.Repeat([]byte{byte(i)}, 1+random.IntN(300))
		if _, err := c.Write(message); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, make([]byte, len(message))); err != nil {
			return nil, err
		}
		sent = append(sent, message...)
	}
	c.(*net.TCPConn).CloseWrite()
	_, err = io.Copy(io.Discard, c)
	return sent, err
}
