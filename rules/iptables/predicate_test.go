package iptables

import (
	"testing"

	"golang.org/x/net/bpf"

	"pptpalg/rules/internal/trial"
)

// wantedPacket is wanted for the bytes of a packet: false for what is malformed,
// unless the flags are there to say otherwise.
func wantedPacket(p []byte) bool {
	if len(p) == 0 {
		return false
	}
	ip := int(p[0]&0x0f) * 4
	if len(p) < ip+14 { // flags are the byte at 13
		return false
	}
	tcp := int(p[ip+12]>>4) * 4
	return trial.Wanted(p[ip+13], max(0, len(p)-ip-tcp))
}

func newVM(t testing.TB) *bpf.VM {
	t.Helper()
	vm, err := bpf.NewVM(predicate)
	if err != nil {
		t.Fatalf("load predicate: %v", err)
	}
	return vm
}

func matches(t testing.TB, vm *bpf.VM, p []byte) bool {
	t.Helper()
	n, err := vm.Run(p)
	if err != nil {
		t.Fatalf("run predicate on %x: %v", p, err)
	}
	return n != 0
}

func TestPredicateEveryCombination(t *testing.T) {
	vm := newVM(t)
	trial.EachSegment(1, func(s trial.Segment) {
		if got, want := matches(t, vm, s.Packet([4]byte{}, [4]byte{})), trial.Wanted(s.Flags, s.Payload); got != want {
			t.Fatalf("%+v: got %v, want %v", s, got, want)
		}
	})
}

// A segment with data is never missed, and one with nothing but an acknowledgement
// always is, whatever the lengths of headers and data.
func TestPredicateEveryLength(t *testing.T) {
	vm := newVM(t)
	for ip := 20; ip <= 60; ip += 4 {
		for tcp := 20; tcp <= 60; tcp += 4 {
			p := trial.Segment{IP: ip, TCP: tcp, Flags: flagACK, Payload: 1500}.Packet([4]byte{}, [4]byte{})
			for payload := range 1501 {
				if got := matches(t, vm, p[:ip+tcp+payload]); got != (payload > 0) {
					t.Fatalf("headers of %d and %d bytes, %d of data: got %v", ip, tcp, payload, got)
				}
			}
		}
	}
}

func TestPredicateMalformed(t *testing.T) {
	vm := newVM(t)
	for name, p := range trial.Malformed() {
		if matches(t, vm, p) {
			t.Errorf("%s: matches", name)
		}
	}
	if matches(t, vm, nil) {
		t.Error("empty packet: matches")
	}
}

func FuzzPredicate(f *testing.F) {
	f.Add(trial.Segment{IP: 20, TCP: 20, Flags: flagSYN}.Packet([4]byte{}, [4]byte{}))
	f.Add(trial.Segment{IP: 60, TCP: 60, Flags: flagACK, Payload: 1}.Packet([4]byte{}, [4]byte{}))
	for _, p := range trial.Malformed() {
		f.Add(p)
	}
	vm := newVM(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, want := matches(t, vm, p), wantedPacket(p); got != want {
			t.Fatalf("%x: got %v, want %v", p, got, want)
		}
	})
}

// The kernel takes at most XT_BPF_MAX_NUM_INSTR instructions.
func TestBytecode(t *testing.T) {
	const want = "14,177 0 0 0,80 0 0 13,69 9 0 5,84 0 0 18,21 7 0 18,80 0 0 12,84 0 0 240," +
		"116 0 0 2,12 0 0 0,7 0 0 0,128 0 0 0,45 0 1 0,6 0 0 1,6 0 0 0"
	if got := bytecode(predicate); got != want {
		t.Errorf("bytecode\n got %s\nwant %s", got, want)
	}
	if len(predicate) > 64 {
		t.Errorf("%d instructions, xt_bpf takes 64", len(predicate))
	}
}
