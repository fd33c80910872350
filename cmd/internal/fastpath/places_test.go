package fastpath

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// plainMap is map leaving without a kernel.
type plainMap map[fastpathLeaves]fastpathSent

func (m plainMap) add(k fastpathLeaves, s fastpathSent) error {
	if _, there := m[k]; there {
		return ebpf.ErrKeyExist
	}
	m[k] = s
	return nil
}

func (m plainMap) set(k fastpathLeaves, s fastpathSent) error { m[k] = s; return nil }

func (m plainMap) at(k fastpathLeaves) (uint32, error) {
	if s, there := m[k]; there {
		return s.Place, nil
	}
	return 0, ebpf.ErrKeyNotExist
}

func (m plainMap) remove(k fastpathLeaves) error {
	if _, there := m[k]; !there {
		return ebpf.ErrKeyNotExist
	}
	delete(m, k)
	return nil
}

// model is what places are to be like.
type model struct {
	flows []translation
	count map[translation]carried
}

func (m *model) remove(x translation) {
	m.flows = slices.DeleteFunc(m.flows, func(y translation) bool { return x == y })
	delete(m.count, x)
}

// TestPlaces puts flows in and takes them out, and compares with a plain map. A search, as
// the programs search, finds each flow and no other.
func TestPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flows := make([]fastpathFlow, 128)
		secret := [2]uint64{rapid.Uint64().Draw(t, "secret"), rapid.Uint64().Draw(t, "secret")}
		now, leaving := uint32(1), make(plainMap)
		clock := func() uint32 { return now }
		p := newPlaces(flows, secret, leaving, clock)
		m := model{count: make(map[translation]carried)}
		used := make(map[uint32]uint32) // when a place was freed
		draw := func(t *rapid.T) translation {
			small := rapid.Uint16Range(0, 70)
			return translation{way{1, 2, small.Draw(t, "id")}, way{3, 4, small.Draw(t, "new id") / 2}}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				x := draw(t)
				c := carried{rapid.Uint64().Draw(t, "packets"), 1}
				before := p.find(x.in)
				err := p.put(x, c)
				if before != none && p.translation(before) != x {
					used[before] = now // another flow had its packets
				}
				m.flows = slices.DeleteFunc(m.flows, func(y translation) bool { return y.in == x.in && y != x })
				maps.DeleteFunc(m.count, func(y translation, _ carried) bool { return y.in == x.in && y != x })
				if errors.Is(err, errFull) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, again := m.count[x]; !again {
					m.flows = append(m.flows, x)
					at := p.found(x)
					if used[at] != 0 && now-used[at] <= rest {
						t.Fatalf("place %d is used again after %d", at, now-used[at])
					}
					if flows[at].Way.State != live {
						t.Fatalf("a new flow has state %d", flows[at].Way.State)
					}
				}
				m.count[x] = c
			},
			"remove": func(t *rapid.T) {
				x := draw(t)
				if len(m.flows) > 0 && rapid.Bool().Draw(t, "there") {
					x = rapid.SampledFrom(m.flows).Draw(t, "flow")
				}
				at := p.found(x)
				want, there := m.count[x]
				if (at != none) != there {
					t.Fatalf("found: %v, there: %v", at, there)
				}
				if !there {
					return
				}
				got, err := p.free(at)
				if err != nil || got != want {
					t.Fatalf("carried %v, want %v, %v", got, want, err)
				}
				used[at] = now
				m.remove(x)
			},
			"wait": func(t *rapid.T) { now += rapid.Uint32Range(1, 1500).Draw(t, "time") },
			"restart": func(t *rapid.T) {
				p = newPlaces(flows, secret, leaving, clock)
				clear(used)
			},
			"": func(t *rapid.T) {
				if p.used != len(m.flows) {
					t.Fatalf("%d flows, want %d", p.used, len(m.flows))
				}
				for _, x := range m.flows {
					if at := p.found(x); at == none || p.carried(at) != m.count[x] {
						t.Fatalf("%v is not there as it should be", x)
					}
				}
				wantOneLearnt(t, p, leaving)
				for i := range flows { // nothing is searched behind the last flow
					if flows[i].Way.State == gone && flows[(i+1)%len(flows)].Way.State == never {
						t.Fatalf("place %d is gone, and the next one never was", i)
					}
				}
			},
		})
	})
}

var errKilled = errors.New("killed")

// mortal is map leaving of a process that is killed before or after one of the changes.
type mortal struct {
	plainMap
	left *int // steps before that
}

func (m mortal) step() {
	if *m.left--; *m.left == 0 {
		panic(errKilled)
	}
}

func (m mortal) add(k fastpathLeaves, s fastpathSent) error {
	m.step()
	defer m.step()
	return m.plainMap.add(k, s)
}

func (m mortal) set(k fastpathLeaves, s fastpathSent) error {
	m.step()
	defer m.step()
	return m.plainMap.set(k, s)
}

func (m mortal) remove(k fastpathLeaves) error {
	m.step()
	defer m.step()
	return m.plainMap.remove(k)
}

// outlives reports whether the process outlives what f does.
func (p *places) outlives(f func(*places)) (outlived bool) {
	defer func() {
		if r := recover(); r != nil && r != any(errKilled) {
			panic(r)
		}
	}()
	f(p)
	return true
}

// TestKilled kills the process between two writes, and starts another one: of the flows that
// leave alike, one is learnt.
func TestKilled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flows, now := make([]fastpathFlow, 128), uint32(1)
		left := rapid.IntRange(1, 60).Draw(t, "steps")
		m := mortal{make(plainMap), &left}
		start := func() *places { return newPlaces(flows, [2]uint64{1, 2}, m, func() uint32 { return now }) }
		p := start()
		small := rapid.Uint16Range(0, 7)
		for range 60 {
			now += 2 * rest
			x, put := translation{way{1, 2, small.Draw(t, "id")}, way{3, 4, small.Draw(t, "new id") / 4}}, rapid.Bool().Draw(t, "put")
			outlived := p.outlives(func(p *places) {
				if at := p.found(x); !put && at != none {
					p.free(at)
				} else if put {
					p.put(x, carried{})
				}
			})
			if !outlived {
				p = start()
				p.sweep(slices.Collect(stale(p, m.plainMap)))
			}
			wantOneLearnt(t, p, m.plainMap)
		}
	})
}

// TestNoMemory: the kernel has no memory to enter a flow that leaves as another one does. The
// other one stays as it is.
func TestNoMemory(t *testing.T) {
	m := poor{make(plainMap)}
	p := newPlaces(make([]fastpathFlow, 128), [2]uint64{1, 2}, m, func() uint32 { return 1 })
	if err := p.put(translation{way{1, 2, 1}, way{3, 4, 5}}, carried{}); err != nil {
		t.Fatal(err)
	}
	if err := p.put(translation{way{1, 2, 2}, way{3, 4, 5}}, carried{}); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("put: %v", err)
	}
	if p.used != 1 || len(p.shadows) != 0 {
		t.Errorf("%d flows are there, shadows %v", p.used, p.shadows)
	}
	wantOneLearnt(t, p, m.plainMap)
}

// poor is map leaving where nothing that is there can be replaced.
type poor struct{ plainMap }

func (poor) set(fastpathLeaves, fastpathSent) error { return unix.ENOMEM }

// wantOneLearnt wants one of the flows that leave alike to be learnt, and no other.
func wantOneLearnt(t interface{ Fatalf(string, ...any) }, p *places, leaving plainMap) {
	lives := make(map[way]int)
	p.all(func(at uint32) bool {
		x := p.translation(at)
		lives[x.out] += 0
		if p.flows[at].Way.State != live {
			return true
		}
		lives[x.out]++
		if s := leaving[x.leaves()]; s.Place != at {
			t.Fatalf("%v leaves from place %d, is at %d", x, s.Place, at)
		}
		return true
	})
	for out, n := range lives {
		if n != 1 {
			t.Fatalf("of those that leave as %v, %d may be learnt", out, n)
		}
	}
	if len(leaving) != len(lives) {
		t.Fatalf("%d leave, want %d", len(leaving), len(lives))
	}
}

// stale returns what leads to no flow.
func stale(p *places, m plainMap) iter.Seq[fastpathLeaves] {
	return func(yield func(fastpathLeaves) bool) {
		for k, s := range m {
			if !p.leads(s.Place, k) && !yield(k) {
				return
			}
		}
	}
}

// TestHash has the programs find what the table has put in, with Call IDs one after the
// other: the hash is the same, and searches are short.
func TestHash(t *testing.T) {
	r := newRig(t)
	m := modes[0]
	o := m.options(r)
	o.Flows = 1 << 15
	r.load(t, m, o)
	defer r.gateway.Do(func() error { return Unload(r.dir) })
	r.table = r.open(t)
	l := &loader{maps: r.table.maps}
	for name, pin := range rootPins {
		out, err := ebpf.LoadPinnedMap(r.table.dir+"/"+mapsDir+"/"+pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		l.maps.maps[name] = out
	}
	var err error
	if l.spec, err = loadSpec(); err != nil {
		t.Fatal(err)
	}
	l.size(uint32(len(l.maps.flows)))
	programs, err := l.programs(ports63, 14)
	if err != nil {
		t.Fatal(err)
	}
	defer programs.Close()
	const n = 12000
	there := func(i int) calls.Flow {
		return calls.Flow{
			Src: server, Dst: public, Key: pptp.CallID(i), NewSrc: server, NewDst: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), NewKey: 1,
		}
	}
	for i := range n {
		if err := r.table.Install(there(i)); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.table.Stats(); s.Flows != n || s.Without != 0 {
		t.Fatalf("%+v", s)
	}
	before := r.table.Stats().Passed["expired"]
	for i := range 2 * n {
		p := packet{to: make([]byte, 6), from: make([]byte, 6), src: server, dst: public, key: pptp.CallID(i), flags: 0x30, version: 1, protocol: 0x880b, ttl: 9, payload: 9}
		if _, _, err := programs.Forward.Test(p.frame()); err != nil {
			t.Fatal(err)
		}
	}
	if found := r.table.Stats().Passed["expired"] - before; found != n {
		t.Errorf("the program finds %d of %d", found, n)
	}
}

// ports63 is the number of a port that nobody has.
const ports63 = 63

// TestGeneration has daemon and Load count at the same time: no change gets lost, and the lower
// half is never 0.
func TestGeneration(t *testing.T) {
	const some, each = 4, 50000
	s := pinned{control: &fastpathControl{Generation: 1}}
	var group sync.WaitGroup
	for range some {
		group.Go(func() {
			for range each {
				s.changed()
				if uint16(s.generation()) == 0 {
					t.Error("the lower half is 0")
				}
			}
		})
	}
	group.Wait()
	const wrapped = (1 + some*each) >> 16
	if got := s.generation(); got != 1+some*each+wrapped {
		t.Errorf("it is %d, want %d", got, 1+some*each+wrapped)
	}
}

// TestWithout fills the table: what finds no place is counted, and gets one later.
func TestWithout(t *testing.T) {
	r := newRig(t)
	m := modes[0]
	o := m.options(r)
	o.Flows = leastFlows
	r.load(t, m, o)
	defer r.gateway.Do(func() error { return Unload(r.dir) })
	r.table = r.open(t)
	random := rand.New(rand.NewPCG(1, 1))
	var all []calls.Flow
	for i := range 2 * leastFlows {
		f := flow(outward, 0)
		f.Key, f.NewKey = pptp.CallID(i), pptp.CallID(i)
		all = append(all, f)
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, f := range all {
		if err := r.table.Install(f); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.table.Stats(); s.Flows != leastFlows || s.Without != leastFlows {
		t.Errorf("full: %+v", s)
	}
	for _, f := range all[:leastFlows/2] {
		if got := r.table.Remove(f); !got.Counted {
			t.Errorf("%v: removed: %+v", f, got)
		}
	}
	for _, f := range all[leastFlows:] {
		if err := r.table.Install(f); err != nil {
			t.Fatal(err)
		}
	}
	s := r.table.Stats()
	if s.Flows <= leastFlows/2 || s.Flows+s.Without != leastFlows+leastFlows/2 {
		t.Errorf("full again: %+v", s)
	}
	r.table.Remove(all[slices.IndexFunc(all, func(f calls.Flow) bool { _, there := r.table.Traffic(f); return there })])
	lost := fastpathLeaves{Src: 1}
	if err := r.table.maps.maps[fastpathMapLeaving].Put(lost, fastpathSent{Place: 1}); err != nil {
		t.Fatal(err)
	}
	flows := r.table.Stats().Flows
	r.table.Retain(func(calls.Flow) bool { return true })
	if s := r.table.Stats(); s.Flows != flows {
		t.Errorf("retained: %+v", s)
	}
	if _, err := (leavingMap{r.table.maps.maps[fastpathMapLeaving]}).at(lost); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("what leads to no flow is still there: %v", err)
	}
	r.table.Retain(func(calls.Flow) bool { return false })
	if s := r.table.Stats(); s.Flows != 0 {
		t.Errorf("emptied: %+v", s)
	}
	var k fastpathLeaves
	var v fastpathSent
	if i := r.table.maps.maps[fastpathMapLeaving].Iterate(); i.Next(&k, &v) {
		t.Errorf("left in the map: %+v", k)
	}
}

// TestKernels leaves flows to the kernel that the fast path is not made for.
func TestKernels(t *testing.T) {
	base := flow(inward, 0)
	for name, change := range map[string]func(*calls.Flow){
		"in a zone":      func(f *calls.Flow) { f.Zone = 1 },
		"one way":        func(f *calls.Flow) { f.OneWay = true },
		"not translated": func(f *calls.Flow) { f.NewSrc, f.NewDst, f.NewKey = f.Src, f.Dst, f.Key },
		"IPv6":           func(f *calls.Flow) { f.Src = netip.MustParseAddr("2001:db8::1") },
		"no address":     func(f *calls.Flow) { f.NewDst = netip.Addr{} },
	} {
		f := base
		change(&f)
		if _, carries := translationOf(f); carries {
			t.Errorf("%s: carried", name)
		}
	}
	for _, f := range allFlows() {
		if x, carries := translationOf(f); !carries || x.flow() != f {
			t.Errorf("%v: carried: %v, read back %v", f, carries, x.flow())
		}
	}
}

// TestLayout: whoever changes a structure that programs and daemon share counts LAYOUT up.
func TestLayout(t *testing.T) {
	got := fmt.Sprint(unsafe.Sizeof(fastpathFlow{}), unsafe.Offsetof(fastpathFlow{}.Packets), unsafe.Sizeof(fastpathSent{}), unsafe.Sizeof(fastpathLeaves{}), unsafe.Sizeof(fastpathPort{}), unsafe.Sizeof(fastpathControl{}))
	if want := "64 48 36 12 16 40"; layout != 2 || got != want {
		t.Errorf("layout %d: %s, want %s", layout, got, want)
	}
	spec, err := loadSpec()
	if err != nil {
		t.Fatal(err)
	}
	var c fastpathControl
	if err := spec.Variables[fastpathVarSaid].Get(&c); err != nil || c.Layout != layout {
		t.Errorf("the programs' layout is %d, %v", c.Layout, err)
	}
	if n := spec.Maps[fastpathMapEvents].MaxEntries; int(n) != len(tellsOf) {
		t.Errorf("%d events, told of %d", n, len(tellsOf))
	}
}
