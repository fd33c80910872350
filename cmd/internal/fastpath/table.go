package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/fastpath/ports"
)

// Table is the daemon's side of the fast path. Any goroutine may use it. A table that is
// closed does nothing and tells of nothing; its errors are os.ErrClosed.
type Table struct {
	dir string // of the network namespace

	mu     sync.Mutex // guards what follows
	maps   *pinned    // nil: closed
	places *places
	asked  time.Time                // when retired maps were last looked at
	left   map[translation]struct{} // flows that found no place
}

// Open opens the table of this network namespace, which Load has pinned. The error is
// os.ErrNotExist where nothing is loaded.
func Open(dir string) (*Table, error) {
	own, err := folder(dir)
	if err != nil {
		return nil, err
	}
	s, err := openPinned(filepath.Join(own, mapsDir), mapPins)
	if err != nil {
		return nil, fmt.Errorf("open the fast path: %w", err)
	}
	t := &Table{dir: own, left: make(map[translation]struct{})}
	t.use(s)
	return t, nil
}

func (t *Table) use(s *pinned) {
	t.maps = s
	t.places = newPlaces(s.flows, s.control.Secret, leavingMap{s.maps[fastpathMapLeaving]}, millis)
}

// patience is how often the successor of retired maps is looked for.
const patience = time.Second

// open reports whether the table is open. If other maps have replaced its own, it moves to
// them. The caller holds mu.
func (t *Table) open() bool {
	if t.maps == nil {
		return false
	}
	if t.maps.retired() && time.Since(t.asked) >= patience {
		t.asked = time.Now()
		t.follow()
	}
	return true
}

// follow moves to the maps that have replaced these, if there are any: each set of maps has
// another secret. The caller holds mu.
func (t *Table) follow() {
	s, err := openPinned(filepath.Join(t.dir, mapsDir), mapPins)
	if err != nil {
		return // nothing is loaded
	}
	if s.control.Secret == t.maps.control.Secret {
		s.close()
		return
	}
	old, was := t.maps, t.places
	t.use(s)
	clear(t.left)
	for _, x := range t.places.move(was) {
		t.left[x] = struct{}{}
	}
	old.close()
}

// Install puts a flow in. Its counters begin at 0, also if it was there: it is installed
// again where its entry in the kernel was created again. A flow that is the kernel's alone is
// no error, nor is one that finds no place, which Stats counts.
func (t *Table) Install(f calls.Flow) error {
	x, carries := translationOf(f)
	if !carries {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return os.ErrClosed
	}
	err := t.places.put(x, carried{})
	if err == nil {
		delete(t.left, x)
		return nil
	}
	t.left[x] = struct{}{}
	if errors.Is(err, errFull) {
		return nil
	}
	return fmt.Errorf("fast path: %v: %w", f, err)
}

// Remove takes a flow out and returns what it has carried here.
func (t *Table) Remove(f calls.Flow) calls.Traffic {
	x, carries := translationOf(f)
	if !carries {
		return calls.Traffic{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return calls.Traffic{}
	}
	delete(t.left, x)
	at := t.places.found(x)
	if at == none {
		return calls.Traffic{}
	}
	c, _ := t.places.free(at) // what may be left of it has no place, and Retain removes it
	return c.traffic()
}

// Traffic returns what a flow has carried here, and whether it is there.
func (t *Table) Traffic(f calls.Flow) (calls.Traffic, bool) {
	x, carries := translationOf(f)
	if !carries {
		return calls.Traffic{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return calls.Traffic{}, false
	}
	at := t.places.found(x)
	if at == none {
		return calls.Traffic{}, false
	}
	return t.places.carried(at).traffic(), true
}

func (c carried) traffic() calls.Traffic {
	return calls.Traffic{Packets: c.packets, Bytes: c.bytes, Counted: true}
}

// Retain takes out the flows that are not needed, as an earlier daemon may have left them,
// and what that has left half done. needed may not use the table.
func (t *Table) Retain(needed func(calls.Flow) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return
	}
	t.places.all(func(at uint32) bool {
		if !needed(t.places.translation(at).flow()) {
			t.places.free(at) // what may be left of it is swept below
		}
		return true
	})
	t.sweep()
}

// sweep clears away what leads to no flow.
func (t *Table) sweep() {
	const some = 4096
	m := t.maps.maps[fastpathMapLeaving]
	keys, values := make([]fastpathLeaves, some), make([]fastpathSent, some)
	var stale []fastpathLeaves
	var cursor ebpf.MapBatchCursor
	for err := error(nil); err == nil; {
		var n int
		n, err = m.BatchLookup(&cursor, keys, values, nil)
		for i, k := range keys[:n] {
			if at := values[i].Place; !t.places.leads(at, k) {
				stale = append(stale, k)
			}
		}
	}
	t.places.sweep(stale)
}

// Changed has the kernel decide on all flows anew, as its rules or routes have changed.
func (t *Table) Changed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return os.ErrClosed
	}
	t.maps.changed()
	return nil
}

// Refresh takes note of the ports' present link addresses. Those that are not attached are
// for Load.
func (t *Table) Refresh(all []ports.Port) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return os.ErrClosed
	}
	have, err := t.maps.ports()
	if err != nil {
		return err
	}
	for _, p := range all {
		n := numberOf(have, p.Index)
		if n < 0 {
			continue
		}
		if now := have[n]; now.Clsact&idleXDP == 0 && len(p.MAC) == len(now.Mac) && now.Mac != [6]uint8(p.MAC) {
			now.Mac = [6]uint8(p.MAC)
			err = errors.Join(err, t.maps.setPort(n, now))
		}
	}
	return err
}

// numberOf returns the number of the port with an interface, or -1.
func numberOf(all []fastpathPort, index int) int {
	for n, p := range all {
		if int(p.Ifindex) == index {
			return n
		}
	}
	return -1
}

// Close closes the table. The fast path goes on.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.maps != nil {
		t.maps.close()
	}
	t.maps, t.places = nil, nil // what they map is gone
	return nil
}

// Stats are figures of the fast path.
type Stats struct {
	Loaded   bool              // false: unloaded since it was opened, and nothing was loaded instead
	Places   int               // for flows; half of them can be used
	Flows    int               // there
	InForce  int               // of these, forwarded here for now
	Without  int               // flows that found no place
	Interval time.Duration     // for which a decision of the kernel is in force
	Packets  map[string]uint64 // forwarded here, by path: xdp, tc
	Passed   map[string]uint64 // packets of flows that were left to the kernel, by reason
	Learnt   uint64            // decisions of the kernel that were taken over
	Refused  map[string]uint64 // decisions of the kernel that could not be, by reason
}

// tellsOf is where Stats tells of the programs' events, in the order of enum event.
var tellsOf = []struct {
	name string
	in   func(*Stats) map[string]uint64
}{
	{"xdp", packets}, {"tc", packets}, {"learnt", nil},
	{"expired", passed}, {"longer", passed}, {"elsewhere", passed},
	{"hop", passed}, {"unlike", passed}, {"broken", passed}, {"cut", passed}, {"others", passed}, {"alike", passed},
	{"changed", refused}, {"altered", refused}, {"unwatched", refused},
}

func packets(s *Stats) map[string]uint64 { return s.Packets }
func passed(s *Stats) map[string]uint64  { return s.Passed }
func refused(s *Stats) map[string]uint64 { return s.Refused }

// Stats counts.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open() {
		return Nothing()
	}
	s := Stats{
		Loaded: !t.maps.retired(), Places: len(t.places.flows), Flows: t.places.used, Without: len(t.left),
		Interval: time.Duration(t.maps.interval()) << 20,
		Packets:  make(map[string]uint64), Passed: make(map[string]uint64), Refused: make(map[string]uint64),
	}
	s.InForce = t.places.inForce(t.maps.generation(), t.maps.interval())
	for i, row := range tellsOf {
		n := total(t.maps.maps[fastpathMapEvents], uint32(i))
		if row.in == nil {
			s.Learnt = n
			continue
		}
		row.in(&s)[row.name] = n
	}
	return s
}

// total adds up a counter of all processors.
func total(m *ebpf.Map, number uint32) (n uint64) {
	var each []uint64
	if m.Lookup(number, &each) != nil {
		return 0
	}
	for _, one := range each {
		n += one
	}
	return n
}
