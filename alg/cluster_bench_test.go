package alg

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// manyRecords returns n calls of another gateway, each on a connection of its own.
func manyRecords(n int) []calls.Record {
	all := make([]calls.Record, n)
	for i := range all {
		inside := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		outside := netip.AddrFrom4([4]byte{203, 0, byte(i >> 15), 9})
		id, port := pptp.CallID(i&0x7fff+1), uint16(i&0x7fff+1024)
		all[i] = calls.Record{
			Number: uint64(i + 1), State: calls.Established, Since: epoch,
			Connection: calls.Connection{Original: tuple(inside, port, outside, 1723), Reply: tuple(outside, 1723, gatewayAddr, port)},
			Legs:       [2]calls.LegRecord{{Known: true, Own: 7, Public: id}, {Known: true, Own: id, Public: id}},
		}
	}
	return all
}

// BenchmarkFollow follows 100,000 calls, is told each of them once more, takes all of them
// over, gives them away and forgets them. It reports the memory of one.
func BenchmarkFollow(b *testing.B) {
	const many = 100_000
	records := manyRecords(many)
	var took [5]time.Duration
	var room float64
	for b.Loop() {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		table := calls.New(calls.DefaultConfig())
		e := NewEditor(table, DefaultConnections)
		owned := false
		e.Owned(func(calls.Connection) bool { return owned })
		handOver := func() {
			owned = !owned
			for h, more := e.Handover(behind(gatewayAddr)), true; more; {
				_, more = h.Next(1000, epoch)
				table.Events()
			}
		}
		follow := func() {
			for _, r := range records {
				if _, ok := e.Follow(r, epoch); !ok {
					b.Fatal("refused")
				}
				table.Events()
			}
		}
		for i, step := range []func(){
			follow, follow,
			handOver, handOver,
			func() {
				for _, r := range records {
					e.Forget(r.Number, epoch, epoch)
					table.Events()
				}
			},
		} {
			began := time.Now()
			step()
			took[i] += time.Since(began)
			table.Events()
			if i == 0 {
				runtime.GC()
				runtime.ReadMemStats(&after)
				room = float64(after.HeapAlloc-before.HeapAlloc) / many
			}
		}
	}
	for i, name := range []string{"follow", "again", "take", "drop", "forget"} {
		b.ReportMetric(took[i].Seconds()*1000/float64(b.N), name+"-ms")
	}
	b.ReportMetric(room, "B/call")
	b.ReportMetric(0, "ns/op")
}
