package gre

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// many returns n flows from servers to clients behind one address.
func many(n int) []calls.Flow {
	flows := make([]calls.Flow, n)
	for i := range flows {
		peer := netip.AddrFrom4([4]byte{198, 18, byte(i >> 12), 1})
		flows[i] = calls.Flow{
			Src: peer, Dst: public, Key: pptp.CallID(i & 0xfff), NewSrc: peer,
			NewDst: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), NewKey: 1,
		}
	}
	return flows
}

// perOp reports the CPU time that the benchmark's goroutine used: where other programs
// run, ns/op has their time too.
func perOp(b *testing.B, loop func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime(b)
	loop()
	b.ReportMetric(float64(threadTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func threadTime(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		b.Fatal(err)
	}
	return unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime)
}

func BenchmarkParse(b *testing.B) {
	in := ip(server, public, 0, data(77))
	perOp(b, func() {
		for b.Loop() {
			p, _ := packet.ParseIPv4(in)
			if _, err := packet.ParseGRE(p.Payload()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkEnter is all that a packet takes, of a flow out of many.
func BenchmarkEnter(b *testing.B) {
	for _, bm := range []struct {
		name  string
		flows int
	}{{"flows=1", 1}, {"flows=100000", 100000}} {
		b.Run(bm.name, func(b *testing.B) {
			flows := many(bm.flows)
			table := newTable(b, flows...)
			packets := make([][]byte, min(bm.flows, 4096))
			for i := range packets {
				f := flows[rand.N(len(flows))]
				packets[i] = ip(f.Src, f.Dst, 0, data(f.Key))
			}
			scratch := make([]byte, 100)
			b.ReportAllocs()
			perOp(b, func() {
				for i := 0; b.Loop(); i++ {
					in := packets[i&(len(packets)-1)]
					if table.Enter(scratch[:copy(scratch, in)]).Verdict != Edited {
						b.Fatal("not edited")
					}
				}
			})
		})
	}
}

// BenchmarkLeave is all that a packet takes on its way out.
func BenchmarkLeave(b *testing.B) {
	table := newTable(b, outward)
	in, scratch := ip(client, server, 0, data(5)), make([]byte, 100)
	b.ReportAllocs()
	perOp(b, func() {
		for b.Loop() {
			if table.Leave(scratch[:copy(scratch, in)]) != Edited {
				b.Fatal("not edited")
			}
		}
	})
}

// BenchmarkMemory states what the table's heap is per flow, in bytes: a call has two.
func BenchmarkMemory(b *testing.B) {
	flows := many(100_000)
	for b.Loop() {
		before := heap()
		table := newTable(b, flows...)
		b.ReportMetric(float64(heap()-before)/float64(table.Len()), "B/flow")
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// finder is a way to look flows up.
type finder interface {
	install(key, *state)
	find(key) *state
}

type ours struct{ *Table }

func (o ours) install(_ key, s *state) { _ = o.Install(s.flow.unpack(), start) }
func (o ours) find(k key) *state       { return o.entering.find(k) }

// sharded is 256 maps, each with a lock.
type sharded [256]struct {
	mu sync.RWMutex
	m  map[key]*state
	_  [32]byte
}

func newSharded() *sharded {
	s := &sharded{}
	for i := range s {
		s[i].m = make(map[key]*state)
	}
	return s
}

func (s *sharded) install(k key, v *state) {
	shard := &s[byte(k.id)]
	shard.mu.Lock()
	shard.m[k] = v
	shard.mu.Unlock()
}

func (s *sharded) find(k key) *state {
	shard := &s[byte(k.id)]
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	return shard.m[k]
}

// synced is the standard library's concurrent map.
type synced struct{ m sync.Map }

func (s *synced) install(k key, v *state) { s.m.Store(k, v) }

func (s *synced) find(k key) *state {
	v, _ := s.m.Load(k)
	return v.(*state)
}

// BenchmarkFind looks 100,000 flows up in random order while another goroutine installs:
// the table, and what it could have been.
func BenchmarkFind(b *testing.B) {
	for _, bm := range []struct {
		name string
		f    finder
	}{{"table", ours{NewTable()}}, {"sharded", newSharded()}, {"sync.Map", &synced{}}} {
		b.Run(bm.name, func(b *testing.B) { benchmarkFind(b, bm.f) })
	}
}

func benchmarkFind(b *testing.B, f finder) {
	var keys []key
	for _, flow := range many(100000) {
		p, _ := pack(flow)
		keys = append(keys, p.enters())
		f.install(p.enters(), &state{flow: p})
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var stop atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; !stop.Load(); i++ {
			flow := outward
			flow.Key, flow.NewKey = pptp.CallID(i&0xfff), pptp.CallID(i>>12)
			p, _ := pack(flow)
			f.install(p.enters(), &state{flow: p})
		}
	})
	perOp(b, func() {
		for i := 0; b.Loop(); i++ {
			if f.find(keys[i%len(keys)]) == nil {
				b.Fatal("not found")
			}
		}
	})
	stop.Store(true)
	writer.Wait()
}
