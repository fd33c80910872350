package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
)

// Connections of which the test plays both ends.

// pair is a control connection of which the test plays both ends.
type pair struct{ dialer, accepted *lab.Client }

// pairs opens a connection for each dialer, all to the server's address.
func pairs(t *testing.T, l *lab.Listener, server netip.AddrPort, dialers ...*lab.Host) []pair {
	t.Helper()
	var all []pair
	for _, h := range dialers {
		a, b := dialed(t, l, h, server)
		all = append(all, pair{a, b})
	}
	return all
}

func listen(t *testing.T, h *lab.Host) *lab.Listener {
	t.Helper()
	l, err := lab.Listen(h)
	must(t, err)
	closeAfter(t, l)
	return l
}

func at1723(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, lab.Port) }

// dialed connects a host to a server's address behind which l waits, and returns
// both ends.
func dialed(t *testing.T, l *lab.Listener, h *lab.Host, server netip.AddrPort) (dialer, accepted *lab.Client) {
	t.Helper()
	end := make(chan *lab.Client, 1)
	go func() {
		c, err := l.Accept(lab.Patience)
		if err != nil {
			t.Error(err)
		}
		end <- c
	}()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	dialer, err := lab.Dialing{Server: server}.Start(ctx, h)
	accepted = <-end
	must(t, err)
	if accepted == nil {
		t.FailNow()
	}
	t.Cleanup(func() { _, _ = dialer.Close(), accepted.Close() })
	return dialer, accepted
}

// placed has one end place an outgoing call and the other answer it.
func placed(t *testing.T, caller *lab.Client, callerID pptp.CallID, answerer *lab.Client, answererID pptp.CallID) (a, b *lab.Call) {
	t.Helper()
	return placedBy(t, (*lab.Client).Call, caller, callerID, answerer, answererID)
}

// offered is placed with an incoming call.
func offered(t *testing.T, caller *lab.Client, callerID pptp.CallID, answerer *lab.Client, answererID pptp.CallID) (a, b *lab.Call) {
	t.Helper()
	return placedBy(t, (*lab.Client).OfferCall, caller, callerID, answerer, answererID)
}

func placedBy(t *testing.T, place func(*lab.Client, pptp.CallID) (*lab.Call, error),
	caller *lab.Client, callerID pptp.CallID, answerer *lab.Client, answererID pptp.CallID) (a, b *lab.Call) {
	t.Helper()
	answered := make(chan error, 1)
	go func() {
		var err error
		b, err = answerer.Answer(answererID)
		answered <- err
	}()
	a, err := place(caller, callerID)
	must(t, errors.Join(err, <-answered))
	return a, b
}

// converse has both ends of a call, both played by the test, send to each other.
func converse(t *testing.T, a, b *lab.Call) {
	t.Helper()
	for i := range 3 {
		for _, way := range [][2]*lab.Call{{a, b}, {b, a}} {
			sent := fmt.Sprintf("from %v to %v, packet %d", way[0].Own, way[1].Own, i)
			must(t, way[0].Send([]byte(sent)))
			got, err := way[1].Recv(lab.Patience)
			must(t, err)
			if string(got) != sent {
				t.Errorf("received %q, want %q", got, sent)
			}
		}
	}
}
