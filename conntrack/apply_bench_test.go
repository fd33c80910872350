package conntrack

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// crowd is the table of a large gateway.
const crowd = 100_000

// manyFlows returns n flows of which no two share a tuple.
func manyFlows(n int) []calls.Flow {
	flows := make([]calls.Flow, n)
	for i := range flows {
		f := toClient
		f.Src = netip.AddrFrom4([4]byte{198, 51, 100, byte(i >> 16)})
		f.NewSrc = f.Src
		f.NewDst = netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})
		f.Key, f.NewKey = pptp.CallID(i), pptp.CallID(i)
		flows[i] = f
	}
	return flows
}

// cpuTime returns what the process has used, in user mode and in the kernel.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// reportCPU runs op, and after each the untimed undo, and reports the CPU time of
// op.
func reportCPU(b *testing.B, op, undo func()) {
	b.Helper()
	b.ReportAllocs()
	var used time.Duration
	for b.Loop() {
		before := cpuTime(b)
		op()
		used += cpuTime(b) - before
		b.StopTimer()
		undo()
		b.StartTimer()
	}
	b.ReportMetric(used.Seconds()*1000/float64(b.N), "cpu-ms/op")
}

func BenchmarkCrowd(b *testing.B) {
	c := newNamespace(b).dial(b)
	for _, f := range manyFlows(crowd) {
		mustCreate(b, c, f)
	}
	b.Run("flows", func(b *testing.B) {
		reportCPU(b, func() {
			if fs, err := c.Flows(); err != nil || len(fs) != crowd {
				b.Fatal(len(fs), err)
			}
		}, func() {})
	})
	b.Run("connections", func(b *testing.B) {
		reportCPU(b, func() {
			if _, err := c.Connections([]uint16{1723}); err != nil {
				b.Fatal(err)
			}
		}, func() {})
	})
	b.Run("connections not filtered", func(b *testing.B) {
		c.noFilter = true
		defer func() { c.noFilter = false }()
		reportCPU(b, func() {
			if _, err := c.Connections([]uint16{1723}); err != nil {
				b.Fatal(err)
			}
		}, func() {})
	})
}

// BenchmarkBulk makes and unmakes the entries of a large gateway, each alone and
// in batches.
func BenchmarkBulk(b *testing.B) {
	for _, bb := range []struct {
		name           string
		create, delete func(*Conn, []calls.Flow) map[calls.Flow]error
	}{
		{"alone", oneByOne((*Conn).Create), oneByOne((*Conn).Delete)},
		{"batches", createAll, deleteAll},
	} {
		c := newNamespace(b).dial(b)
		flows := manyFlows(crowd)
		do := func(b *testing.B, op func(*Conn, []calls.Flow) map[calls.Flow]error) {
			if failed := op(c, flows); len(failed) != 0 {
				b.Fatal(len(failed), "flows failed")
			}
		}
		b.Run("create/"+bb.name, func(b *testing.B) {
			reportCPU(b, func() { do(b, bb.create) }, func() { do(b, deleteAll) })
		})
		b.Run("create again/"+bb.name, func(b *testing.B) {
			do(b, createAll)
			reportCPU(b, func() { do(b, bb.create) }, func() {})
			do(b, deleteAll)
		})
		b.Run("delete/"+bb.name, func(b *testing.B) {
			do(b, createAll)
			reportCPU(b, func() { do(b, bb.delete) }, func() { do(b, createAll) })
			do(b, deleteAll)
		})
	}
}

// BenchmarkBatchRatio states how many times as long it takes to create flows, and
// to delete them, one by one as in batches.
func BenchmarkBatchRatio(b *testing.B) {
	c := newNamespace(b).dial(b)
	flows := manyFlows(crowd / 5)
	timed := func(op func(*Conn, []calls.Flow) map[calls.Flow]error) float64 {
		began := time.Now()
		if failed := op(c, flows); len(failed) != 0 {
			b.Fatal(len(failed), "flows failed")
		}
		return time.Since(began).Seconds()
	}
	var create, remove [2]float64 // alone, in batches
	for b.Loop() {
		create[0] += timed(oneByOne((*Conn).Create))
		remove[0] += timed(oneByOne((*Conn).Delete))
		create[1] += timed(createAll)
		remove[1] += timed(deleteAll)
	}
	b.ReportMetric(create[0]/create[1], "create-ratio")
	b.ReportMetric(remove[0]/remove[1], "delete-ratio")
}

func oneByOne(op func(*Conn, calls.Flow) error) func(*Conn, []calls.Flow) map[calls.Flow]error {
	return func(c *Conn, flows []calls.Flow) map[calls.Flow]error {
		failed := make(map[calls.Flow]error)
		for _, f := range flows {
			if err := op(c, f); err != nil {
				failed[f] = err
			}
		}
		return failed
	}
}
