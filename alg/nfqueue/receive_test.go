package nfqueue

import (
	"bytes"
	"errors"
	"os"
	"testing"

	nfq "github.com/florianl/go-nfqueue/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// sent is one verdict given to the kernel.
type sent struct {
	ID      uint32
	Verdict Verdict
	Payload string
}

// fakeKernel stands for the kernel's side of a queue: it records verdicts, and
// refuses to be sent the first ones.
type fakeKernel struct {
	verdicts []sent
	batches  []sent
	refuse   int
	failed   int
	panicked int
	overruns int
}

var errRefused = errors.New("no buffer")

// queue returns a running queue on the fake kernel, for its callbacks to be called.
func (k *fakeKernel) queue(h Handler) *Queue {
	q := newQueue(Config{
		Queue:    testQueue,
		Failed:   func(error) { k.failed++ },
		Panicked: func(any, []byte) { k.panicked++ },
		Overrun:  func() { k.overruns++ },
	}, h)
	q.verdict = func(id uint32, v Verdict, payload []byte) error {
		if k.refuse > 0 {
			k.refuse--
			return errRefused
		}
		k.verdicts = append(k.verdicts, sent{id, v, string(payload)})
		return nil
	}
	q.batch = func(last uint32, v Verdict) error {
		k.batches = append(k.batches, sent{ID: last, Verdict: v})
		return nil
	}
	close(q.running)
	return q
}

func attribute(id uint32, payload string) nfq.Attribute {
	b, hook := []byte(payload), uint8(Output)
	return nfq.Attribute{PacketID: &id, Payload: &b, Hook: &hook}
}

func TestOneVerdictPerPacket(t *testing.T) {
	capLen := uint32(70000)
	edit := func(v Verdict) Handler {
		return func(p Packet) Verdict {
			copy(p.Payload, "X")
			return v
		}
	}
	tests := []struct {
		name    string
		handler Handler
		capLen  *uint32
		refuse  int
		want    []sent
		failed  int
		panics  int
	}{
		{name: "accept", handler: edit(Accept), want: []sent{{7, Accept, "Xbc"}}},
		{name: "accept modified", handler: edit(AcceptModified), want: []sent{{7, AcceptModified, "Xbc"}}},
		{name: "drop", handler: edit(Drop), want: []sent{{7, Drop, "Xbc"}}},
		{name: "truncated", handler: edit(AcceptModified), capLen: &capLen, want: []sent{{7, Accept, "Xbc"}}},
		{name: "truncated, drop", handler: edit(Drop), capLen: &capLen, want: []sent{{7, Drop, "Xbc"}}},
		{name: "panic", handler: func(Packet) Verdict { panic("x") }, want: []sent{{7, Accept, "abc"}}, panics: 1},
		{name: "runtime panic", handler: func(p Packet) Verdict { return Verdict(p.Payload[3]) }, want: []sent{{7, Accept, "abc"}}, panics: 1},
		{name: "panic, and accept cannot be sent", handler: func(Packet) Verdict { panic("x") }, refuse: 1, failed: 1, panics: 1},
		{name: "modified cannot be sent", handler: edit(AcceptModified), refuse: 1, want: []sent{{7, Drop, ""}}, failed: 1},
		{name: "nothing can be sent", handler: edit(AcceptModified), refuse: 2, failed: 2},
		{name: "accept cannot be sent", handler: edit(Accept), refuse: 1, failed: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &fakeKernel{refuse: tt.refuse}
			a := attribute(7, "abc")
			a.CapLen = tt.capLen
			if k.queue(tt.handler).receive(a) != goOn {
				t.Error("the queue gave up")
			}
			if diff := cmp.Diff(tt.want, k.verdicts); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
			if k.failed != tt.failed || k.panicked != tt.panics {
				t.Errorf("told of %d failures and %d panics, want %d and %d", k.failed, k.panicked, tt.failed, tt.panics)
			}
		})
	}
}

func TestPacketWithoutID(t *testing.T) {
	k := &fakeKernel{}
	if k.queue(acceptAny).receive(nfq.Attribute{}) != goOn || len(k.verdicts) != 0 || k.failed != 1 {
		t.Errorf("%+v", k)
	}
}

// Errors as mdlayher/netlink makes them: the kernel's answer, and the socket's own.
func answered(errno unix.Errno) error { return &netlink.OpError{Op: "receive", Err: errno} }

func socketError(errno unix.Errno) error {
	return &netlink.OpError{Op: "receive", Err: os.NewSyscallError("recvmsg", errno)}
}

func TestReceiveErrors(t *testing.T) {
	tests := []struct {
		name     string
		err      error
		repeat   int
		want     int // what go-nfqueue is told at last
		failed   int
		overruns int
	}{
		{name: "overruns", err: socketError(unix.ENOBUFS), repeat: 1000, want: goOn, overruns: 1000},
		{name: "late verdicts", err: answered(unix.ENOENT), repeat: 1000, want: goOn, failed: 1000},
		{name: "no memory, once", err: socketError(unix.ENOMEM), repeat: 1, want: goOn, failed: 1},
		{name: "no memory, nearly for good", err: socketError(unix.ENOMEM), repeat: maxFailures - 1, want: goOn, failed: maxFailures - 1},
		{name: "no memory, for good", err: socketError(unix.ENOMEM), repeat: maxFailures, want: end, failed: maxFailures - 1},
		{name: "not a netlink message", err: errors.New("truncated"), repeat: maxFailures, want: end, failed: maxFailures - 1},
		{name: "socket closed", err: socketError(unix.EBADF), repeat: 1, want: end},
		{name: "file closed", err: os.ErrClosed, repeat: 1, want: end},
		{name: "queue gone", err: answered(unix.ENODEV), repeat: 1, want: end},
		{name: "queue another's", err: answered(unix.EPERM), repeat: 1, want: end},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &fakeKernel{}
			q := k.queue(acceptAny)
			q.receive(attribute(9, "abc"))
			var got int
			for range tt.repeat {
				got = q.receiveFailed(tt.err)
			}
			if got != tt.want || k.failed != tt.failed || k.overruns != tt.overruns {
				t.Errorf("told %d after %d failures and %d overruns, want %d, %d, %d",
					got, k.failed, k.overruns, tt.want, tt.failed, tt.overruns)
			}
			checkEnd(t, q, k, tt.err, tt.want == end)
		})
	}
}

// checkEnd verifies that a queue which ended says why, and let go what waited.
func checkEnd(t *testing.T, q *Queue, k *fakeKernel, err error, ended bool) {
	t.Helper()
	if !ended {
		if len(k.batches) != 0 {
			t.Errorf("batches %+v while the queue goes on", k.batches)
		}
		return
	}
	<-q.done
	if !errors.Is(q.err, err) {
		t.Errorf("ended with %v, want %v", q.err, err)
	}
	if diff := cmp.Diff([]sent{{ID: 9 + allIDs, Verdict: Accept}}, k.batches); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
}

func TestPacketsKeepTheSocketAlive(t *testing.T) {
	k := &fakeKernel{}
	q := k.queue(acceptAny)
	for range 10 * maxFailures {
		if q.receiveFailed(socketError(unix.ENOMEM)) != goOn || q.receive(attribute(1, "a")) != goOn {
			t.Fatal("the queue gave up")
		}
	}
}

// TestDropAtBindIsQuiet: bind drops what waits, and is told that nothing did.
func TestDropAtBindIsQuiet(t *testing.T) {
	k := &fakeKernel{}
	if k.queue(acceptAny).receiveFailed(answered(unix.ENOENT)) != goOn || k.failed != 0 {
		t.Errorf("%+v", k)
	}
}

func TestNewPacket(t *testing.T) {
	mark, capLen := uint32(3), uint32(9)
	a := attribute(1, "abc")
	a.Mark, a.CapLen = &mark, &capLen
	want := Packet{Payload: []byte("abc"), Hook: Output, Mark: 3, Truncated: true}
	if diff := cmp.Diff(want, newPacket(a)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Packet{}, newPacket(nfq.Attribute{})); diff != "" {
		t.Errorf("empty (-want +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	tests := []struct{ got, want string }{
		{Prerouting.String(), "PREROUTING"},
		{Input.String(), "INPUT"},
		{Forward.String(), "FORWARD"},
		{Output.String(), "OUTPUT"},
		{Postrouting.String(), "POSTROUTING"},
		{Hook(9).String(), "unknown(9)"},
		{Accept.String(), "accept"},
		{AcceptModified.String(), "accept modified"},
		{Drop.String(), "drop"},
		{Verdict(9).String(), "unknown(9)"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	c := Config{}.withDefaults()
	if c.MaxLen != DefaultMaxLen || c.ReadBuffer != DefaultReadBuffer {
		t.Errorf("%+v", c)
	}
	c.Panicked(nil, nil)
	c.Overrun()
	c.Failed(nil)
	if c := (Config{MaxLen: 1, ReadBuffer: 2}).withDefaults(); c.MaxLen != 1 || c.ReadBuffer != 2 {
		t.Errorf("%+v", c)
	}
}

// TestAnswersOnly checks the filter's constant against the bytes of a message.
func TestAnswersOnly(t *testing.T) {
	m := netlink.Message{Header: netlink.Header{Length: 16, Type: netlink.Error}}
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	if got := []byte{byte(answerType() >> 8), byte(answerType())}; !bytes.Equal(got, b[4:6]) {
		t.Errorf("the filter looks for % x, the message has % x", got, b[4:6])
	}
}
