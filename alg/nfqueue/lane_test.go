package nfqueue

import (
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
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
	refuse  int // sends to refuse
	failed  int
	panics  int
}

// lane returns one that sends to k.
func (k *kernelSide) lane(cfg FastConfig, h Handler) *lane {
	cfg.Queue = testQueue
	cfg.Failed = func(error) { k.failed++ }
	cfg.Panicked = func(any, []byte) { k.panics++ }
	cfg = cfg.withDefaults()
	l := newLane(cfg, testQueue, h, &halt{begun: make(chan struct{})})
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
		return func(p Packet) Verdict {
			copy(p.Payload, "X")
			return v
		}
	}
	accepted, modified, dropped := fate{Verdict: nfAccept}, fate{Verdict: nfAccept, Payload: "Xbc"}, fate{}
	tests := []struct {
		name    string
		cfg     FastConfig
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
		{name: "marked, without a mark", handler: edit(AcceptMarked), want: map[uint32]fate{7: accepted}},
		{name: "unknown", handler: edit(99), want: map[uint32]fate{7: accepted}},
		{name: "modified and marked", cfg: FastConfig{Mark: 8}, handler: edit(AcceptModified), attrs: markAttr,
			want: map[uint32]fate{7: {nfAccept, "Xbc", 11}}},
		{name: "marked", cfg: FastConfig{Mark: 8}, handler: edit(AcceptMarked), want: map[uint32]fate{7: {nfAccept, "", 8}}},
		{name: "accept, not marked", cfg: FastConfig{Mark: 8}, handler: edit(Accept), want: map[uint32]fate{7: accepted}},
		{name: "truncated", cfg: FastConfig{Mark: 8}, handler: edit(AcceptModified), attrs: capLenAttr, want: map[uint32]fate{7: accepted}},
		{name: "truncated, drop", handler: edit(Drop), attrs: capLenAttr, want: map[uint32]fate{7: dropped}},
		{name: "panic", handler: func(Packet) Verdict { panic("x") }, want: map[uint32]fate{7: accepted}, panics: 1},
		{name: "runtime panic", handler: func(p Packet) Verdict { return Verdict(p.Payload[3]) }, want: map[uint32]fate{7: accepted}, panics: 1},
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
		verdicts := rapid.SliceOfN(rapid.SampledFrom([]Verdict{Accept, AcceptModified, Drop, AcceptMarked, 9}), 1, DefaultBatch).Draw(rt, "verdicts")
		sizes := rapid.SliceOfN(rapid.IntRange(1, 9000), len(verdicts), len(verdicts)).Draw(rt, "sizes")
		marks := rapid.SliceOfN(rapid.SampledFrom([]uint32{0, 3, 8}), len(verdicts), len(verdicts)).Draw(rt, "marks")
		var messages [][]byte
		want := make(map[uint32]fate)
		for i, v := range verdicts {
			id := uint32(i + 1)
			payload := make([]byte, sizes[i])
			messages = append(messages, packetMessage(id, string(payload), attr(nil, attrMark, 0, 0, 0, byte(marks[i]))))
			k.waiting = append(k.waiting, id)
			payload[0] = byte(v)
			want[id] = map[Verdict]fate{
				Accept: {Verdict: nfAccept}, 9: {Verdict: nfAccept}, Drop: {Verdict: nfDrop},
				AcceptModified: {nfAccept, string(payload), marks[i] | 8}, AcceptMarked: {nfAccept, "", marks[i] | 8},
			}[v]
		}
		next := 0
		l := k.lane(FastConfig{Mark: 8}, func(p Packet) Verdict {
			v := verdicts[next]
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
	l := k.lane(FastConfig{}, func(p Packet) Verdict { return Verdict(p.Payload[0] - '0') })
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

// TestLaneAllocatesNothing takes recorded messages through the loop's body.
func TestLaneAllocatesNothing(t *testing.T) {
	l := newLane(FastConfig{Config: Config{Queue: testQueue}, Mark: 8}.withDefaults(), testQueue, func(p Packet) Verdict {
		return Verdict(p.Payload[0] - '0')
	}, &halt{begun: make(chan struct{})})
	sent := 0
	l.send = func(parts []unix.Iovec) error {
		sent += len(parts)
		return nil
	}
	var messages [][]byte
	for i := range DefaultBatch {
		messages = append(messages, packetMessage(uint32(i+1), string('0'+rune(rand.N(4)))+string(make([]byte, 1399))))
	}
	allocs := testing.AllocsPerRun(100, func() {
		deliver(l, messages...)
		l.turn()
	})
	if allocs != 0 || sent == 0 {
		t.Errorf("%v allocations for %d packets, %d messages sent", allocs, DefaultBatch, sent)
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
		name    string
		message []byte
		err     error
		repeat  int
		ends    bool
		failed  int
	}{
		{name: "success", message: errorMessage(0), repeat: 1},
		{name: "late verdicts", message: errorMessage(unix.ENOENT), repeat: 1000, failed: 1000},
		{name: "queue gone", message: errorMessage(unix.ENODEV), repeat: 1, ends: true},
		{name: "queue another's", message: errorMessage(unix.EPERM), repeat: 1, ends: true},
		{name: "packet without an ID", message: packetMessage(7, "abc")[:30], repeat: 1000, failed: 1000},
		{name: "no message", message: []byte("abc"), repeat: 1},
		{name: "no memory, nearly for good", err: unix.ENOMEM, repeat: maxFailures - 1, failed: maxFailures - 1},
		{name: "no memory, for good", err: unix.ENOMEM, repeat: maxFailures, ends: true, failed: maxFailures - 1},
		{name: "socket closed", err: unix.EBADF, repeat: 1, ends: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &kernelSide{t: t}
			l := k.lane(FastConfig{}, acceptAny)
			l.last = 9
			for range tt.repeat {
				deliver(l, tt.message)
				l.err = tt.err
				l.turn()
			}
			if (l.fatal != nil) != tt.ends || k.failed != tt.failed {
				t.Errorf("ended with %v after %d failures, want %d", l.fatal, k.failed, tt.failed)
			}
			if tt.err != nil && tt.ends && !errors.Is(l.fatal, tt.err) {
				t.Errorf("%v does not wrap %v", l.fatal, tt.err)
			}
		})
	}
}

func TestFastConfigLimits(t *testing.T) {
	for _, cfg := range []FastConfig{{Queues: -1}, {Queues: 2, Config: Config{Queue: 65535}}, {Batch: -1}, {Batch: maxBatch + 1}} {
		if f, err := OpenFast(cfg, acceptAny); err == nil {
			t.Errorf("%+v was opened", cfg)
			f.Close()
		}
	}
}
