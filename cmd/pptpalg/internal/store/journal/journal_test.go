package journal

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/store"
	"pptpalg/cmd/pptpalg/internal/store/record"
)

var at = time.Unix(1_800_000_000, 42)

func call(number uint64) calls.Record {
	n := byte(number)
	return calls.Record{
		Number: number, PNS: calls.Responder, Asker: calls.Side(n & 1), Payer: calls.Side(n >> 1 & 1), Local: [2]bool{n&1 != 0, n&2 != 0}, State: calls.Established, Since: at,
		Connection: calls.Connection{
			Original: calls.Tuple{Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 4000), Dst: netip.MustParseAddrPort("203.0.113.9:1723")},
			Reply:    calls.Tuple{Src: netip.MustParseAddrPort("203.0.113.9:1723"), Dst: netip.MustParseAddrPort("198.51.100.1:65535")},
			Zone:     3, Mark: 0xdeadbeef, Closing: n&2 != 0,
		},
		Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: 0xff07}, {Own: 0}},
	}
}

var same = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(time.Time.Equal)}

func open(t *testing.T, dir, identity string) (*Journal, store.Contents) {
	t.Helper()
	j, c, err := Open(dir, identity)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() }) // some tests have closed it
	return j, c
}

func keep(numbers ...uint64) (events []calls.Event) {
	for _, n := range numbers {
		events = append(events, calls.Event{Kind: calls.SetUp, Call: call(n)})
	}
	return events
}

func TestRemembers(t *testing.T) {
	dir := t.TempDir()
	j, c := open(t, dir, "a")
	if len(c.Calls)+len(c.Gone) != 0 {
		t.Fatalf("a new journal remembers %v", c)
	}
	gone := append(keep(1, 2, 3), calls.Event{Kind: calls.Gone, Call: calls.Record{Number: 2}})
	for _, k := range gone {
		if err := j.Append([]calls.Event{k}, at); err != nil {
			t.Fatal(err)
		}
	}
	want := store.Contents{Calls: []calls.Record{call(1), call(3)}, Gone: []store.Gone{{Record: call(2), At: at}}, Stale: call(2).AllFlows()}
	for range 3 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j, c = open(t, dir, "a")
		if diff := cmp.Diff(want, c, same); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, c = open(t, dir, "another boot"); len(c.Calls) != 0 {
		t.Error("it remembers what was true of another kernel table")
	}
}

func TestAnotherDaemonHasIt(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, "a")
	if _, _, err := Open(dir, "a"); err == nil || !strings.Contains(err.Error(), "another daemon has it") {
		t.Errorf("a second opener gets %v", err)
	}
}

// TestStaleFlows: a flow that a call had and has no longer may still be in the kernel.
func TestStaleFlows(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, "a")
	cleared, other := call(1), call(1)
	cleared.State = calls.Clearing
	other.Legs[0].Own = 8
	for _, r := range []calls.Record{call(1), other, cleared} {
		if err := j.Append([]calls.Event{{Kind: calls.SetUp, Call: r}}, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, dir, "a")
	if diff := cmp.Diff(append(call(1).AllFlows(), other.AllFlows()...), c.Stale, same); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAppendBehindACut: what is appended after a crash in mid-record is read.
func TestAppendBehindACut(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, "a")
	if err := j.Append(keep(1, 2), at); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(j.file.path(), j.size-5); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, _ = open(t, dir, "a")
	if err := j.Append(keep(3), at); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, c := open(t, dir, "a"); len(c.Calls) != 2 || c.Calls[1].Number != 3 {
		t.Errorf("calls %v, want 1 and 3", c.Calls)
	}
}

// TestCutAnywhere: whatever byte the writing stopped at, all whole records count.
func TestCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, "a")
	head := int(j.size)
	if err := j.Append(keep(1, 2), at); err != nil {
		t.Fatal(err)
	}
	if err := j.Append([]calls.Event{{Kind: calls.Gone, Call: call(1)}}, at); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(j.file.path())
	if err != nil {
		t.Fatal(err)
	}
	one := record.KeptSize
	for n := range len(b) + 1 {
		c, _ := read(j.file.head, b[:n])
		want := min(2, max(0, n-head)/one)
		if n == len(b) {
			want = 1
		}
		if len(c.Calls) != want {
			t.Errorf("cut at %d of %d: %d calls, want %d", n, len(b), len(c.Calls), want)
		}
	}
	for at := head; at < len(b); at++ {
		damaged := bytes.Clone(b)
		damaged[at] ^= 0x40
		if c, _ := read(j.file.head, damaged); len(c.Calls) > 2 {
			t.Errorf("damaged at %d: %v", at, c)
		}
	}
}

func TestRewriteShrinks(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, "a")
	for !j.Overgrown() {
		if err := j.Append(keep(1), at); err != nil {
			t.Fatal(err)
		}
	}
	resting := calls.Resting{Public: netip.MustParseAddr("198.51.100.1"), Peer: netip.MustParseAddr("203.0.113.9"), Zone: 3, ID: 7, Until: at}
	if err := j.Rewrite([]calls.Record{call(1)}, []calls.Resting{resting}); err != nil {
		t.Fatal(err)
	}
	if j.Overgrown() || j.size > 1000 {
		t.Errorf("%d bytes after the rewrite", j.size)
	}
	if err := j.Append(keep(2), at); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, dir, "a")
	if diff := cmp.Diff(store.Contents{Calls: []calls.Record{call(1), call(2)}, Resting: []calls.Resting{resting}}, c, same); diff != "" {
		t.Errorf("after the rewrite (-want +got):\n%s", diff)
	}
}

// FuzzRead: whatever the file holds, what is read of it can be written and is then
// read as the same.
func FuzzRead(f *testing.F) {
	r := call(1)
	f.Add(record.AppendKept(nil, &r))
	f.Add(record.AppendGone(record.AppendKept(nil, &r), 1, at))
	f.Add(record.AppendKept(record.AppendGone(record.AppendKept(nil, &r), 1, at), &r))
	f.Add([]byte{record.Kept, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		const head = "head\n"
		c, _ := read(head, append([]byte(head), b...))
		again := []byte(head)
		for _, r := range c.Calls {
			again = record.AppendKept(again, &r)
		}
		twice, _ := read(head, again)
		if diff := cmp.Diff(c.Calls, twice.Calls, same); diff != "" {
			t.Errorf("(-read +written and read):\n%s", diff)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	j, _, err := Open(b.TempDir(), "a")
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	k := keep(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Append(k, at); err != nil && !errors.Is(err, ErrBehind) { // by a busy machine's disk
			b.Fatal(err)
		}
	}
}

// TestOneRecordForACall: of several events in a row about one call the last says it all, and
// events about flows are none of the journal's.
func TestOneRecordForACall(t *testing.T) {
	of := func(number uint64, kinds ...calls.EventKind) (events []calls.Event) {
		for _, k := range kinds {
			events = append(events, calls.Event{Kind: k, Call: call(number)})
		}
		return events
	}
	flow := calls.Event{Kind: calls.Install}
	for _, tt := range []struct {
		name   string
		events []calls.Event
		kinds  string // of the records: kept or gone
	}{
		{"flows alone", []calls.Event{flow, flow}, ""},
		{"a call is set up", append(append(of(1, calls.Opened), flow), of(1, calls.Assigned, calls.SetUp)...), "k"},
		{"a call ends", of(1, calls.Closed, calls.Gone), "g"},
		{"two calls", slices.Concat(of(1, calls.Assigned, calls.SetUp), of(2, calls.Opened), of(1, calls.Closed)), "kkk"},
		{"one ends, and another begins", slices.Concat(of(1, calls.Closed, calls.Gone), of(2, calls.Opened)), "gk"},
	} {
		var kinds string
		for b := appendEvents(nil, tt.events, at); len(b) > 0; {
			kind, _, rest, err := record.Next(b)
			if err != nil {
				t.Fatal(err)
			}
			kinds += map[byte]string{record.Kept: "k", record.Gone: "g"}[kind]
			b = rest
		}
		if kinds != tt.kinds {
			t.Errorf("%s: records %q, want %q", tt.name, kinds, tt.kinds)
		}
	}
}
