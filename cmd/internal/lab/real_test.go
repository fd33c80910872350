package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"pptpalg/alg/pptp"
)

func pptpd(t *testing.T, h *Host, o PPTPDOptions) *PPTPD {
	t.Helper()
	needPrograms(t, "pptpd")
	d, err := StartPPTPD(h, o)
	must(t, err)
	closeAfter(t, d)
	return d
}

func realClient(t *testing.T, h *Host, o PPTPOptions) *PPTP {
	t.Helper()
	needPrograms(t, "pptp")
	p, err := StartPPTP(h, o)
	must(t, err)
	closeAfter(t, p)
	return p
}

// exchange sends a packet and wants it echoed by the stand-in that said hello.
func exchange(p *PPTP, hello Proof, packet string, within time.Duration) error {
	if err := p.Send([]byte(packet)); err != nil {
		return err
	}
	got, err := p.RecvProof(Echo, within)
	if err != nil {
		return err
	}
	if got.PID != hello.PID || got.Server != hello.Server || string(got.Payload) != packet {
		return fmt.Errorf("exchange %q with %v: got %v", packet, hello, got)
	}
	return nil
}

func TestRealClientAndServer(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	pptpd(t, n.Outside[0], PPTPDOptions{Name: "tokyo", Every: 100 * time.Millisecond})
	p := realClient(t, n.Inside[0], PPTPOptions{Server: n.Outside[0].Addr})
	hello, err := p.RecvProof(Hello, Patience)
	must(t, err)
	if hello.Server != "tokyo" || hello.Remote != n.Inside[0].Addr {
		t.Errorf("got %v", hello)
	}
	all := make([]byte, 256) // what framing has to escape
	for i := range all {
		all[i] = byte(i)
	}
	must(t, exchange(p, hello, "\xff\x03\xc0\x21 a frame", Patience))
	must(t, exchange(p, hello, string(all), Patience))
	for range 3 {
		if tick, err := p.RecvProof(Tick, Patience); err != nil || tick.PID != hello.PID {
			t.Errorf("got %v, %v", tick, err)
		}
	}
	must(t, p.HangUp(4*Patience))
	awaitEnd(t, hello.PID)
}

func TestClientAndRealServer(t *testing.T) {
	n := build(t, Options{Inside: 2, Outside: 1})
	pptpd(t, n.Outside[0], PPTPDOptions{})
	var ids []pptp.CallID
	for i, h := range n.Inside {
		c := client(t, h, n.Outside[0].Addr)
		a := call(t, c, 0) // both 0: the server tells them apart by address
		ids = append(ids, a.Peer)
		packet, err := a.Recv(Patience)
		must(t, err)
		hello, err := ParseProof(packet)
		if err != nil || hello.Kind != Hello || hello.Remote != h.Addr {
			t.Errorf("got %v, %v", hello, err)
		}
		must(t, a.Send([]byte("frame")))
		if packet, err = a.Recv(Patience); err != nil || !bytes.HasSuffix(packet, []byte(" frame")) {
			t.Errorf("got %q, %v", packet, err)
		}
		if i == 0 { // poptop violates the RFC: no notify, TCP is closed
			controller := parent(t, hello.PID)
			must(t, a.Clear())
			if before, err := c.ExpectEnd(Patience); err != nil || before != nil {
				t.Errorf("got %v, %v", before, err)
			}
			awaitEnd(t, controller)
		}
	}
	t.Logf("pptpd's Call IDs: %v", ids)
}

// parent returns the process that has started another one.
func parent(t *testing.T, pid int) (ppid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, line, _ := strings.Cut(string(status), "\nPPid:")
	_, err = fmt.Sscan(line, &ppid)
	must(t, err)
	return ppid
}

// awaitEnd waits until a process of pptpd's is gone, and pptpd knows. It waits for a new
// client's first word in a select, and takes the signal that one of its processes has ended
// for the end of its patience: that client is dropped.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	must(t, Poll(Patience, func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		return errors.Is(err, os.ErrNotExist)
	}))
}

func TestRealClientAndServerInGo(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	s := server(t, n.Outside[0], Behaviour{NextID: Fixed(0), Notify: NotifyOwn})
	want := pptp.CallID(0x1234)
	p := realClient(t, n.Inside[0], PPTPOptions{Server: s.Host.Addr, CallID: &want})
	must(t, Poll(Patience, func() bool { return len(s.Calls()) == 1 }))
	if got := s.Calls()[0].Peer; got != want {
		t.Fatalf("client chose %v, want %v", got, want)
	}
	must(t, p.Send([]byte("to the server")))
	if got, err := p.Recv(Patience); err != nil || string(got) != "to the server" {
		t.Errorf("got %q, %v", got, err)
	}
	must(t, p.HangUp(4*Patience))
	said := s.Received(0)
	if len(said) < 3 || said[2] != NewCallClearRequest(want) {
		t.Errorf("hung up with %v", said)
	}
	if err := p.Send([]byte("too late")); err == nil {
		t.Error("sent after the end")
	}
}

func TestRealClientEnds(t *testing.T) {
	n := build(t, Options{Inside: 1, Outside: 1})
	p := realClient(t, n.Inside[0], PPTPOptions{Server: n.Outside[0].Addr}) // nobody listens
	if _, err := p.Recv(Patience); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if err := p.Wait(Patience); err == nil {
		t.Error("ended well")
	}
	if !strings.Contains(p.Log.String(), "Connection refused") {
		t.Errorf("log: %s", p.Log)
	}
}

func TestRealClientCannotHaveZero(t *testing.T) {
	n := build(t, Options{Inside: 1})
	if _, err := StartPPTP(n.Inside[0], PPTPOptions{Server: nth(WAN, 10), CallID: new(pptp.CallID(0))}); err == nil {
		t.Error("started")
	}
}
