package rules

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/conntrack"
)

// These tests send real TCP connections through the rules, as live_test.go does, of
// which one is left alone while it lasts.

// held is a connection that lasts as long as the test wants.
type held struct {
	client net.Conn
	echoed chan error
}

// hold opens a connection from the client to the gateway's public port.
func hold(t *testing.T, client, server namespace) held {
	t.Helper()
	h := held{echoed: make(chan error, 1)}
	var l net.Listener
	server.do(t, func() (err error) { l, err = net.Listen("tcp4", ":2000"); return err })
	defer l.Close()
	client.do(t, func() (err error) { h.client, err = net.Dial("tcp4", "10.0.1.1:1723"); return err })
	t.Cleanup(func() { h.client.Close() })
	accepted := make(chan struct{})
	go func() {
		h.echoed <- echo(acceptOnce{l, accepted})
	}()
	<-accepted
	h.say(t)
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

// say sends a message and waits for its echo.
func (h held) say(t *testing.T) {
	t.Helper()
	h.client.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := h.client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(h.client, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}

// end sends much more, and closes the connection from both ends.
func (h held) end(t *testing.T) {
	t.Helper()
	if _, err := talk(h.client); err != nil {
		t.Fatal(err)
	}
	if err := <-h.echoed; err != nil {
		t.Fatal(err)
	}
}

// tuple returns the connection as its packets come in.
func (h held) tuple() calls.Tuple {
	ap := func(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
	return calls.Tuple{Src: ap(h.client.LocalAddr()), Dst: ap(h.client.RemoteAddr())}
}

// leaveAlone is what the daemon does.
func (h held) leaveAlone(t *testing.T, gateway namespace, b conntrack.Bypass) {
	t.Helper()
	var c *conntrack.Conn
	gateway.do(t, func() (err error) { c, err = conntrack.Dial(); return err })
	defer c.Close()
	conn, err := c.Connection(h.tuple())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Leave(conn.Original, conn.Zone, b); err != nil {
		t.Fatal(err)
	}
}

// Of a connection that is left alone nothing is queued any more, in neither direction,
// not even its end; others are as before.
func TestKernelLeftAlone(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		for _, text := range []string{"label:118", "mark:0x20000000"} {
			t.Run(text, func(t *testing.T) {
				cfg := onePort
				var err error
				if cfg.Bypass, err = conntrack.ParseBypass(text); err != nil {
					t.Fatal(err)
				}
				leftAlone(t, command, cfg)
			})
		}
	})
}

func leftAlone(t *testing.T, command string, cfg Config) {
	client, gateway, server := newGatewayWith(t, command, cfg)
	q := gateway.listen(t)
	left, other := hold(t, client, server), hold(t, client, server)
	before := settle(t, gateway, command, func(n map[string]int) bool { return n["in wanted"] == len(q.packets()) })
	if before["in wanted"] < 6 { // SYN+ACK, and two with data, of each
		t.Fatalf("only %d packets queued", before["in wanted"])
	}
	left.leaveAlone(t, gateway, cfg.Bypass)
	left.end(t)
	other.say(t)
	settle(t, gateway, command, func(n map[string]int) bool {
		queued, wanted := len(q.packets()), n["in wanted"]
		return queued == before["in wanted"]+2 && wanted > queued+200 && n["in after"] == n["in before"]-queued
	})
	other.end(t)
	settle(t, gateway, command, func(n map[string]int) bool {
		return n["in after"] == n["in before"]-len(q.packets()) && len(q.packets()) > 200
	})
	checkQueued(t, q.packets())
}

// A connection that is older than the rules has no room for a label, and is queued for
// ever; with a mark it need not be.
func TestKernelLeftAloneTooLate(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		client, gateway, server := newGatewayWith(t, command, onePort)
		gateway.listen(t)
		h := hold(t, client, server)
		cfg := onePort
		cfg.Bypass = conntrack.Bypass{Label: DefaultBypassLabel, Labelled: true}
		mustLoad(t, gateway.firewall(command), cfg)
		var c *conntrack.Conn
		gateway.do(t, func() (err error) { c, err = conntrack.Dial(); return err })
		defer c.Close()
		if err := c.Leave(h.tuple(), 0, cfg.Bypass); !errors.Is(err, conntrack.ErrNoLabels) {
			t.Errorf("Leave() = %v, want %v", err, conntrack.ErrNoLabels)
		}
		cfg.Bypass = conntrack.Bypass{Mark: 1}
		mustLoad(t, gateway.firewall(command), cfg)
		if err := c.Leave(h.tuple(), 0, cfg.Bypass); err != nil {
			t.Error(err)
		}
		h.end(t)
	})
}
