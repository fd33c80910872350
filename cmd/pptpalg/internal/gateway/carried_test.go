package gateway

import (
	"os"
	"path/filepath"
	"testing"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/history"
)

func volume(packets uint64) history.Volume {
	return history.Volume{Packets: packets, Bytes: 10 * packets}
}

// TestCarriedWay: what becomes of a flow's counts, by what is found of the fast path.
func TestCarriedWay(t *testing.T) {
	f := calls.Flow{Src: documentary1, Dst: documentary2, Key: 7, NewSrc: documentary1, NewDst: documentary1, NewKey: 8}
	untouched := f
	untouched.NewDst, untouched.NewKey = f.Dst, f.Key
	there := datapath.Flows{f: {Packets: 100, Bytes: 1000, Counted: true}}
	was := carriedWay{Former: volume(10), Ahead: volume(50)}
	for _, row := range []struct {
		name  string
		flow  calls.Flow
		found datapath.Counts
		ahead bool // one was loaded
		want  carriedWay
	}{
		{"it goes on", f, datapath.Counts{All: there}, true, carriedWay{Former: volume(10), Ahead: volume(100)}},
		{"it was unloaded, and read", f, datapath.Counts{All: there, Ended: true}, true, carriedWay{Former: volume(110)}},
		{"it was unloaded", f, datapath.Counts{}, true, carriedWay{Former: volume(60), Lost: true}},
		{"another one was loaded", f, datapath.Counts{All: datapath.Flows{}}, true, carriedWay{Former: volume(60), Lost: true}},
		{"it cannot be read", f, datapath.Counts{Unreadable: true}, true, carriedWay{Former: volume(10), Ahead: volume(50), Lost: true}},
		{"there was none", f, datapath.Counts{}, false, was},
		{"none carries it", untouched, datapath.Counts{}, true, was},
	} {
		if got := was.after(row.flow, &row.found, row.ahead); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
}

// TestCarriedFile: a daemon takes up what an earlier one has written down of its calls, tells it, and
// hands it on. A file that says nothing goes.
func TestCarriedFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, carriedFile)
	r := newRig(t, dir)
	r.takeUpCarried(datapath.Counts{})
	r.call()
	f, _ := r.kept()[0].FlowTo(calls.Initiator)
	r.keepCarried()
	if _, err := os.Stat(file); err == nil {
		t.Error("there is a file that says nothing")
	}
	r.stop()

	counts := datapath.Counts{All: datapath.Flows{f.Unmarked(): {Packets: 100, Bytes: 1000, Counted: true}}, Ended: true}
	for range 3 { // the later ones find no fast path any more
		next := newRig(t, dir)
		next.kernel.flows, next.kernel.packets = r.kernel.flows, 1
		next.takeUpCarried(counts)
		next.compare()
		have, err := next.Traffic()
		if got, _ := datapath.Flows(have).At(f); err != nil || got.Packets != 101 {
			t.Errorf("it tells %+v, want 101 packets: %v", got, err)
		}
		if next.ledger.Doubtful(next.kept()[0].Number, calls.Initiator) {
			t.Error("it doubts its counts")
		}
		next.keepCarried()
		next.stop()
		r, counts = next, datapath.Counts{}
	}
	last := newRig(t, dir)
	last.kernel.flows, last.kernel.packets, last.kernel.counts = r.kernel.flows, 1, true
	last.counting()
	last.takeUpCarried(datapath.Counts{})
	last.compare()
	last.kernel.closed = true
	last.compare()
	if got := last.Events().Kept(history.CallClosed)[0].Call; got.Traffic[calls.Initiator].Packets != 101 || got.Traffic[calls.Responder].Packets != 1 || got.Approximate {
		t.Errorf("it has carried %+v, approximate: %v", got.Traffic, got.Approximate)
	}
	last.keepCarried()
	if _, err := os.Stat(file); err == nil {
		t.Error("a call that has ended is in the file")
	}
}

// TestCarriedAcrossTables: what is written about another network namespace, or is no such file,
// says nothing.
func TestCarriedAcrossTables(t *testing.T) {
	for name, text := range map[string]string{
		"another namespace": `{"table":"another","ahead":true}`,
		"damaged":           `{"table":`,
		"empty":             ``,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, carriedFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, dir)
		if c := r.readCarried(); c.Ahead || len(c.Calls) != 0 {
			t.Errorf("%s: it reads %+v", name, c)
		}
	}
}
