package main

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// wantTold: an end that says nothing itself is told that its control connection has ended.
func wantTold(t *testing.T, c *lab.Client) {
	t.Helper()
	if _, err := c.Read(lab.Patience); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("an end is told %v, want a reset", err)
	}
}

// endCall has "pptpalg calls end" run on the gateway.
func (g *testGateway) endCall(number uint64, args ...string) (code int, stdout, stderr string) {
	g.t.Helper()
	args = append([]string{"calls", "end", strconv.FormatUint(number, 10), "--state-dir", g.state}, args...)
	must(g.t, g.Gateway.Do(func() error {
		code, stdout, stderr = pptpalg(g.t, args...)
		return nil
	}))
	return code, stdout, stderr
}

// TestEndCall: its ends are told, its GRE stops, and the other client's call goes on.
func TestEndCall(t *testing.T) {
	overDataPaths(t, func(t *testing.T, path datapath.Name) {
		g := startGateway(t, path, masquerade(2))
		l := listen(t, g.Outside[0])
		all := pairs(t, l, at1723(g.Outside[0].Addr), g.Inside...)
		placed(t, all[0].dialer, 7, all[0].accepted, 9)
		second, there := placed(t, all[1].dialer, 7, all[1].accepted, 10)
		converse(t, second, there)
		ended := g.wantCalls(2)[0].Number
		code, stdout, stderr := g.endCall(ended)
		if code != 0 || !strings.HasSuffix(stdout, "has ended; both ends were sent a TCP reset\n") {
			t.Fatalf("exit %d: %s%s", code, stdout, stderr)
		}
		wantTold(t, all[0].dialer)
		wantTold(t, all[0].accepted)
		g.wantCalls(1)
		g.wantEntries(2)
		converse(t, second, there)
		if n := g.metric(`pptpalg_calls_closed_total{reason="operator"}`); n != "1" {
			t.Errorf("closed by the operator: %q", n)
		}
		if code, _, stderr := g.endCall(ended); code != 1 || !strings.Contains(stderr, "there is no such call") || strings.Contains(stderr, "404") {
			t.Errorf("once more: exit %d: %s", code, stderr)
		}
		if _, text, _ := g.explain(); !strings.Contains(text, "the last call was ended by the gateway's operator") {
			t.Errorf("explained as:\n%s", text)
		}
	})
}

// TestEndCallFromOutside: the server is behind the gateway.
func TestEndCallFromOutside(t *testing.T) {
	g := startGateway(t, datapath.Kernel, lab.Options{Inside: 1, Outside: 1, DNAT: lab.DNATControl, Firewall: true})
	l := listen(t, g.Inside[0])
	p := pairs(t, l, at1723(lab.PublicOf(0)), g.Outside[0])[0]
	placed(t, p.dialer, 7, p.accepted, 9)
	if code, stdout, stderr := g.endCall(g.wantCalls(1)[0].Number); code != 0 || !strings.Contains(stdout, "both ends were sent a TCP reset") {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	wantTold(t, p.dialer)
	wantTold(t, p.accepted)
}

// TestEndOneOfTwoCalls of a control connection: it goes on with the other.
func TestEndOneOfTwoCalls(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(1))
	l := listen(t, g.Outside[0])
	p := pairs(t, l, at1723(g.Outside[0].Addr), g.Inside[0])[0]
	placed(t, p.dialer, 7, p.accepted, 9)
	a, b := placed(t, p.dialer, 8, p.accepted, 10)
	code, stdout, _ := g.endCall(g.wantCalls(2)[0].Number)
	if code != 0 || !strings.Contains(stdout, "stays up for 1 other call,") {
		t.Fatalf("exit %d: %s", code, stdout)
	}
	g.wantCalls(1)
	converse(t, a, b)
}

// TestEndSeveralCalls: one that is not there keeps none of the others.
func TestEndSeveralCalls(t *testing.T) {
	g := startGateway(t, datapath.Kernel, masquerade(2))
	l := listen(t, g.Outside[0])
	for i, p := range pairs(t, l, at1723(g.Outside[0].Addr), g.Inside...) {
		placed(t, p.dialer, 7, p.accepted, pptp.CallID(9+i))
	}
	all := g.wantCalls(2)
	code, stdout, stderr := g.endCall(all[0].Number, "4711", strconv.FormatUint(all[1].Number, 10))
	if code != 1 || strings.Count(stdout, " has ended; ") != 2 || !strings.Contains(stderr, "end call 4711: there is no such call") {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	g.wantCalls(0)
}

func TestEndCallWrong(t *testing.T) {
	for want, args := range map[string][]string{
		`"x" is not the number of a call`: {"calls", "end", "x"},
		`"y" is not the number of a call`: {"calls", "end", "1", "y"},
		"CALL is missing":                 {"calls", "end"},
	} {
		if code, _, stderr := pptpalg(t, args...); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d: %s", args, code, stderr)
		}
	}
}
