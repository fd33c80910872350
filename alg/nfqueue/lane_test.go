package nfqueue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// fate is what the kernel did with a packet.
type fate struct {
	Verdict uint32
	Payload string // "" for the kernel's own copy
	Mark    uint32
}

// kernelSide stands for the kernel's side of a queue: the packets that wait, in
// order, and what became of the others.
type kernelSide struct {
	t       *testing.T
	waiting []uint32
	fates   map[uint32]fate
	sends   int
	refuse  int    // sends to refuse
	rest    []sent // what ruleAll was given
	failed  int
	panics  int
}

// sent is a verdict on all packets up to ID.
type sent struct {
	ID      uint32
	Verdict uint32
}

// lane returns one that sends to k, and that Run was called for.
func (k *kernelSide) lane(cfg Config, h Handler) *lane {
	cfg.Queue = testQueue
	cfg.Failed = func(error) { k.failed++ }
	cfg.Panicked = func(any, []byte) { k.panics++ }
	l := newLane(cfg.withDefaults(), h, newCourse(), func() {})
	close(l.course.running)
	l.send = k.send
	k.fates = make(map[uint32]fate)
	return l
}

// deliver puts messages into a lane's slots as a receive does.
func deliver(l *lane, messages ...[]byte) {
	for i, m := range messages {
		l.in.headers[i].n = uint32(copy(l.in.slot(i)[slotRoom:], m))
	}
	l.n, l.err = len(messages), nil
}

func (k *kernelSide) send(parts []unix.Iovec) error {
	if k.refuse > 0 {
		k.refuse--
		return os.NewSyscallError("writev", unix.ENOBUFS)
	}
	k.sends++
	var datagram []byte
	for _, p := range parts {
		datagram = append(datagram, unsafe.Slice(p.Base, p.Len)...)
	}
	for len(datagram) > 0 {
		n := native.Uint32(datagram)
		k.verdict(datagram[:n])
		datagram = datagram[min(align(int(n)), len(datagram)):]
	}
	return nil
}

// verdict carries out one message as nfqnl_recv_verdict and its _batch do.
func (k *kernelSide) verdict(m []byte) {
	k.t.Helper()
	f := fate{Verdict: binary.BigEndian.Uint32(m[atVerdict:])}
	id := binary.BigEndian.Uint32(m[atID:])
	if messageType(m) == typeBatch && id >= allIDs {
		k.rest = append(k.rest, sent{id, f.Verdict})
		return
	}
	for at := headLen; at < len(m); at = align(at + int(native.Uint16(m[at:]))) {
		data := m[at+attrLen : at+int(native.Uint16(m[at:]))]
		switch native.Uint16(m[at+2:]) {
		case attrMark:
			f.Mark = binary.BigEndian.Uint32(data)
		case attrPayload:
			f.Payload = string(data)
		}
	}
	var left []uint32
	for _, w := range k.waiting {
		if w == id || messageType(m) == typeBatch && w <= id {
			k.fates[w] = f
		} else {
			left = append(left, w)
		}
	}
	if len(left) == len(k.waiting) {
		k.t.Errorf("a verdict for packet %d, which does not wait: %v", id, k.waiting)
	}
	k.waiting = left
}

func TestLaneOneVerdictPerPacket(t *testing.T) {
	edit := func(v Verdict) Handler {
		return func(p *Packet) Verdict {
			copy(p.Payload, "X")
			return v
		}
	}
	mark := func(v Verdict) Handler {
		return func(p *Packet) Verdict {
			p.Mark |= 8
			return edit(v)(p)
		}
	}
	accepted, modified, dropped := fate{Verdict: nfAccept}, fate{Verdict: nfAccept, Payload: "Xbc"}, fate{}
	tests := []struct {
		name    string
		cfg     Config
		handler Handler
		attrs   []byte
		refuse  int
		want    map[uint32]fate
		failed  int
		panics  int
	}{
		{name: "accept", handler: edit(Accept), want: map[uint32]fate{7: accepted}},
		{name: "accept modified", handler: edit(AcceptModified), want: map[uint32]fate{7: modified}},
		{name: "drop", handler: edit(Drop), want: map[uint32]fate{7: dropped}},
		{name: "repeat", handler: mark(Repeat), want: map[uint32]fate{7: {nfRepeat, "", 8}}},
		{name: "repeat modified", handler: mark(RepeatModified), want: map[uint32]fate{7: {nfRepeat, "Xbc", 8}}},
		{name: "repeat modified, truncated", handler: edit(RepeatModified), attrs: capLenAttr, want: map[uint32]fate{7: {Verdict: nfRepeat}}},
		{name: "unknown", handler: edit(99), want: map[uint32]fate{7: accepted}},
		{name: "modified and marked", handler: mark(AcceptModified), attrs: markAttr,
			want: map[uint32]fate{7: {nfAccept, "Xbc", 11}}},
		{name: "marked", handler: mark(Accept), want: map[uint32]fate{7: {nfAccept, "", 8}}},
		{name: "marked already", handler: edit(Accept), attrs: markAttr, want: map[uint32]fate{7: accepted}},
		{name: "dropped, marked", handler: mark(Drop), want: map[uint32]fate{7: dropped}},
		{name: "marked, panic", handler: func(p *Packet) Verdict { p.Mark = 8; panic("x") }, want: map[uint32]fate{7: accepted}, panics: 1},
		{name: "truncated", handler: edit(AcceptModified), attrs: capLenAttr, want: map[uint32]fate{7: accepted}},
		{name: "truncated, drop", handler: edit(Drop), attrs: capLenAttr, want: map[uint32]fate{7: dropped}},
		{name: "panic", handler: func(*Packet) Verdict { panic("x") }, want: map[uint32]fate{7: accepted}, panics: 1},
		{name: "runtime panic", handler: func(p *Packet) Verdict { return Verdict(p.Payload[3]) }, want: map[uint32]fate{7: accepted}, panics: 1},
		{name: "no memory, once", handler: edit(AcceptModified), refuse: 1, want: map[uint32]fate{7: modified}},
		{name: "modified cannot be sent", handler: edit(AcceptModified), refuse: 2, want: map[uint32]fate{7: dropped}, failed: 1},
		{name: "nothing can be sent", handler: edit(AcceptModified), refuse: 3, want: map[uint32]fate{}, failed: 2},
		{name: "accept cannot be sent", handler: edit(Accept), refuse: 2, want: map[uint32]fate{}, failed: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &kernelSide{t: t, waiting: []uint32{7}, refuse: tt.refuse}
			l := k.lane(tt.cfg, tt.handler)
			deliver(l, packetMessage(7, "abc", tt.attrs))
			l.turn()
			if diff := cmp.Diff(tt.want, k.fates); diff != "" {
				t.Errorf("fates (-want +got):\n%s", diff)
			}
			if k.failed != tt.failed || k.panics != tt.panics || l.fatal != nil {
				t.Errorf("told of %d failures and %d panics, want %d and %d; ended with %v", k.failed, k.panics, tt.failed, tt.panics, l.fatal)
			}
		})
	}
}

// TestLaneModel: whatever the handler decides on however many packets, each gets its
// own verdict, and none gets another's.
func TestLaneModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := &kernelSide{t: t}
		verdicts := rapid.SliceOfN(rapid.SampledFrom([]Verdict{Accept, AcceptModified, Drop, Repeat, RepeatModified, 9}), 1, DefaultBatch).Draw(rt, "verdicts")
		sizes := rapid.SliceOfN(rapid.IntRange(1, 9000), len(verdicts), len(verdicts)).Draw(rt, "sizes")
		added := make([]uint32, len(verdicts)) // the mark that a verdict tells: none if it stays
		marks := rapid.SliceOfN(rapid.SampledFrom([]uint32{0, 3, 8}), len(verdicts), len(verdicts)).Draw(rt, "marks")
		var messages [][]byte
		want := make(map[uint32]fate)
		for i, v := range verdicts {
			id := uint32(i + 1)
			payload := make([]byte, sizes[i])
			messages = append(messages, packetMessage(id, string(payload), attr(nil, attrMark, 0, 0, 0, byte(marks[i]))))
			k.waiting = append(k.waiting, id)
			payload[0] = byte(v)
			if marks[i] == 3 {
				added[i] = 3 | 8
			}
			want[id] = map[Verdict]fate{
				Accept: {nfAccept, "", added[i]}, 9: {nfAccept, "", added[i]}, Drop: {Verdict: nfDrop},
				AcceptModified: {nfAccept, string(payload), added[i]},
				Repeat:         {nfRepeat, "", added[i]}, RepeatModified: {nfRepeat, string(payload), added[i]},
			}[v]
		}
		next := 0
		l := k.lane(Config{}, func(p *Packet) Verdict {
			v := verdicts[next]
			if p.Mark == 3 {
				p.Mark |= 8
			}
			next++
			p.Payload[0] = byte(v)
			return v
		})
		deliver(l, messages...)
		l.turn()
		if !maps.Equal(want, k.fates) || len(k.waiting) != 0 {
			rt.Errorf("%d of %d packets wait, fates differ for %v", len(k.waiting), len(verdicts), verdicts)
		}
	})
}

// TestLaneBatches: a batch is answered with one send, and a run of accepted packets
// with one message.
func TestLaneBatches(t *testing.T) {
	k := &kernelSide{t: t}
	l := k.lane(Config{}, func(p *Packet) Verdict { return Verdict(p.Payload[0] - '0') })
	var messages [][]byte
	for i, payload := range []string{"0", "0", "1", "0", "2", "2", "0"} {
		messages = append(messages, packetMessage(uint32(i+1), payload))
		k.waiting = append(k.waiting, uint32(i+1))
	}
	deliver(l, messages...)
	parts := 0
	l.send = func(p []unix.Iovec) error {
		parts += len(p)
		return k.send(p)
	}
	l.turn()
	if k.sends != 1 || parts != 6 || len(k.waiting) != 0 {
		t.Errorf("%d sends of %d messages, %d packets wait", k.sends, parts, len(k.waiting))
	}
}

// wired returns a lane whose socket's other end is in the test's hands, in place of the
// kernel.
func wired(t *testing.T, cfg Config, h Handler) (l *lane, far int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("make sockets: %v", err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	cfg.Queue = testQueue
	l = newLane(cfg.withDefaults(), h, newCourse(), func() {})
	l.fd = uintptr(fds[0])
	return l, fds[1]
}

// TestLaneAtOnceAndWithoutAllocating takes packets through system calls from receive to
// verdict: what waits is answered at once, one packet as well as many.
func TestLaneAtOnceAndWithoutAllocating(t *testing.T) {
	for _, packets := range []int{1, 8, DefaultBatch} {
		settled := 0
		l, far := wired(t, Config{Settle: func() bool { settled++; return true }}, func(p *Packet) Verdict {
			p.Mark = 8
			return Verdict(p.Payload[0] - '0')
		})
		var messages [][]byte
		for i := range packets {
			messages = append(messages, packetMessage(uint32(i+1), string('0'+rune(rand.N(4)))+string(make([]byte, 1399))))
		}
		turns, answer := 0, make([]byte, 2*sendLimit)
		allocs := testing.AllocsPerRun(100, func() {
			for _, m := range messages {
				if _, err := unix.Write(far, m); err != nil {
					t.Fatalf("write: %v", err)
				}
			}
			if !l.receive(atOnce) {
				t.Fatal("nothing was received")
			}
			l.turn()
			turns++
			if _, err := unix.Read(far, answer); err != nil {
				t.Fatalf("no verdict: %v", err)
			}
		})
		if allocs != 0 || settled != turns {
			t.Errorf("%v allocations for %d packets, %d times settled in %d turns", allocs, packets, settled, turns)
		}
	}
}

// TestLaneSettle: once for a batch, between the last decision and the first verdict. Released follows
// the last one.
func TestLaneSettle(t *testing.T) {
	large := strings.Repeat("1", sendLimit/2)
	tests := []struct {
		name     string
		messages [][]byte
		settle   func()
		want     []string
	}{
		{"one packet", [][]byte{packetMessage(1, "0")}, nil, []string{"decide", "settle", "send", "released"}},
		{"several", [][]byte{packetMessage(1, "0"), packetMessage(2, "1")}, nil, []string{"decide", "decide", "settle", "send", "released"}},
		{"more than one send", [][]byte{packetMessage(1, large), packetMessage(2, large), packetMessage(3, large)}, nil,
			[]string{"decide", "decide", "decide", "settle", "send", "send", "send", "released"}},
		{"a panic among them", [][]byte{packetMessage(1, ""), packetMessage(2, "0")}, nil,
			[]string{"decide", "decide", "settle", "send", "released", "panicked"}},
		{"settle panics", [][]byte{packetMessage(1, "0"), packetMessage(2, "1")}, func() { panic("x") },
			[]string{"decide", "decide", "settle", "send", "panicked"}},
		{"an answer", [][]byte{errorMessage(unix.ENOENT)}, nil, nil},
		{"a packet without an ID", [][]byte{packetMessage(7, "abc")[:30]}, nil, nil},
		{"an answer and a packet", [][]byte{errorMessage(unix.ENOENT), packetMessage(1, "0")}, nil, []string{"decide", "settle", "send", "released"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			log := func(event string) { got = append(got, event) }
			cfg := Config{
				Panicked: func(any, []byte) { log("panicked") },
				Released: func() { log("released") },
				Settle: func() bool {
					log("settle")
					if tt.settle != nil {
						tt.settle()
					}
					return true
				},
			}
			l := newLane(cfg.withDefaults(), func(p *Packet) Verdict {
				log("decide")
				return Verdict(p.Payload[0] - '0')
			}, newCourse(), func() {})
			l.send = func([]unix.Iovec) error {
				log("send")
				return nil
			}
			deliver(l, tt.messages...)
			l.turn()
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestLaneSettlePanics: the packets go on as they were judged, the modified ones too.
func TestLaneSettlePanics(t *testing.T) {
	k := &kernelSide{t: t, waiting: []uint32{1, 2, 3}}
	var stack []byte
	l := k.lane(Config{Settle: func() bool { panic("half done") }}, func(p *Packet) Verdict { return Verdict(p.Payload[0] - '0') })
	l.cfg.Panicked = func(value any, s []byte) {
		if value == "half done" && len(k.waiting) == 0 {
			stack = s
		}
	}
	deliver(l, packetMessage(1, "0"), packetMessage(2, "1"), packetMessage(3, "2"))
	l.turn()
	want := map[uint32]fate{1: {Verdict: nfAccept}, 2: {Verdict: nfAccept, Payload: "1"}, 3: {Verdict: nfDrop}}
	if diff := cmp.Diff(want, k.fates); diff != "" {
		t.Errorf("fates (-want +got):\n%s", diff)
	}
	if !bytes.Contains(stack, []byte("lane_test.go")) {
		t.Errorf("told of the panic, after the verdicts, with the stack %q", stack)
	}
}

// TestLaneSettleRefuses: none of the turn's packets goes on, and those of the next turn do.
func TestLaneSettleRefuses(t *testing.T) {
	k := &kernelSide{t: t, waiting: []uint32{1, 2, 3, 4}}
	release := false
	l := k.lane(Config{Settle: func() bool { return release }}, func(p *Packet) Verdict { return Verdict(p.Payload[0] - '0') })
	deliver(l, packetMessage(1, "0"), packetMessage(2, "1"), packetMessage(3, "2"))
	l.turn()
	release = true
	deliver(l, packetMessage(4, "0"))
	l.turn()
	want := map[uint32]fate{1: {Verdict: nfDrop}, 2: {Verdict: nfDrop}, 3: {Verdict: nfDrop}, 4: {Verdict: nfAccept}}
	if diff := cmp.Diff(want, k.fates); diff != "" {
		t.Errorf("fates (-want +got):\n%s", diff)
	}
}

// TestLaneLate: when the time to drain is up, what is left of a batch is left to be
// accepted with all that waits.
func TestLaneLate(t *testing.T) {
	k := &kernelSide{t: t, waiting: []uint32{1, 2, 3}}
	var l *lane
	l = k.lane(Config{}, func(*Packet) Verdict {
		close(l.course.stopping) // drainBy is long past
		return Drop
	})
	deliver(l, packetMessage(1, "a"), packetMessage(2, "b"), packetMessage(3, "c"))
	l.turn()
	l.finish()
	if diff := cmp.Diff([]sent{{1 + allIDs, nfAccept}}, k.rest); diff != "" || len(k.waiting) != 2 {
		t.Errorf("%v wait; verdicts on all (-want +got):\n%s", k.waiting, diff)
	}
}

// errorMessage is what the kernel answers (netlink_ack).
func errorMessage(errno unix.Errno) []byte {
	b := native.AppendUint32(nil, 36)
	b = native.AppendUint16(b, unix.NLMSG_ERROR)
	b = append(b, make([]byte, 10)...)
	b = native.AppendUint32(b, uint32(-int32(errno)))
	return append(b, make([]byte, 16)...) // the head of what was refused
}

func TestLaneErrors(t *testing.T) {
	tests := []struct {
		name     string
		message  []byte
		err      error
		repeat   int
		ends     bool
		failed   int
		overruns int
	}{
		{name: "success", message: errorMessage(0), repeat: 1},
		{name: "late verdicts", message: errorMessage(unix.ENOENT), repeat: 1000, failed: 1000},
		{name: "queue gone", message: errorMessage(unix.ENODEV), repeat: 1, ends: true},
		{name: "queue another's", message: errorMessage(unix.EPERM), repeat: 1, ends: true},
		{name: "packet without an ID", message: packetMessage(7, "abc")[:30], repeat: 1000, failed: 1000},
		{name: "no message", message: []byte("abc"), repeat: 1},
		{name: "overruns", err: unix.ENOBUFS, repeat: 1000, overruns: 1000},
		{name: "no memory, once", err: unix.ENOMEM, repeat: 1, failed: 1},
		{name: "no memory, nearly for good", err: unix.ENOMEM, repeat: maxFailures - 1, failed: maxFailures - 1},
		{name: "no memory, for good", err: unix.ENOMEM, repeat: maxFailures, ends: true, failed: maxFailures - 1},
		{name: "socket closed", err: unix.EBADF, repeat: 1, ends: true},
		{name: "file closed", err: os.ErrClosed, repeat: 1, ends: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			overruns := 0
			k := &kernelSide{t: t}
			l := k.lane(Config{Overrun: func() { overruns++ }}, acceptAny)
			l.last = 9
			for range tt.repeat {
				deliver(l, tt.message)
				l.err = tt.err
				l.turn()
			}
			if (l.fatal != nil) != tt.ends || k.failed != tt.failed || overruns != tt.overruns {
				t.Errorf("ended with %v after %d failures and %d overruns, want %d and %d", l.fatal, k.failed, overruns, tt.failed, tt.overruns)
			}
			if tt.err != nil && tt.ends && !errors.Is(l.fatal, tt.err) {
				t.Errorf("%v does not wrap %v", l.fatal, tt.err)
			}
		})
	}
}

// TestLaneDies: a lane that dies lets go what waits, stops the others, and says why.
func TestLaneDies(t *testing.T) {
	stopped := 0
	k := &kernelSide{t: t}
	l := k.lane(Config{}, acceptAny)
	l.stop = func() { stopped++ }
	l.last, l.fatal = 9, errNotBound
	l.fd = ^uintptr(0) // not to be used any more
	if l.receiveFailed(os.ErrDeadlineExceeded) != end {
		t.Error("go-nfqueue is to receive once more")
	}
	if diff := cmp.Diff([]sent{{9 + allIDs, nfAccept}}, k.rest); diff != "" || stopped != 1 {
		t.Errorf("stopped %d times; verdicts on all (-want +got):\n%s", stopped, diff)
	}
	<-l.done
}

func TestPacketsKeepTheSocketAlive(t *testing.T) {
	k := &kernelSide{t: t}
	l := k.lane(Config{}, acceptAny)
	for id := range uint32(10 * maxFailures) {
		l.err = unix.ENOMEM
		l.turn()
		k.waiting = []uint32{id + 1}
		deliver(l, packetMessage(id+1, "a"))
		l.turn()
	}
	if l.fatal != nil {
		t.Errorf("the queue gave up: %v", l.fatal)
	}
}

// TestDropAtBindIsQuiet: admit drops what waits, and is told that nothing did.
func TestDropAtBindIsQuiet(t *testing.T) {
	k := &kernelSide{t: t}
	l := k.lane(Config{}, acceptAny)
	deliver(l, errorMessage(unix.ENOENT))
	if l.turn(); l.fatal != nil || k.failed != 0 {
		t.Errorf("ended with %v, %d failures", l.fatal, k.failed)
	}
}
