package conntrack

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// perOp reports the CPU time that the benchmark's goroutine used, in user mode and in
// the kernel, which answers a request within the call that sends it.
func perOp(b *testing.B, loop func()) {
	b.Helper()
	b.ReportAllocs()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime(b)
	loop()
	b.ReportMetric(float64(threadTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkCall is what a call needs of conntrack: its control connection's
// translation, two entries, and their end.
func BenchmarkCall(b *testing.B) {
	ns := newNamespace(b)
	c := ns.dial(b)
	insertLeft(b, ns, 0, 0)
	get := func(b *testing.B) {
		if _, err := c.Connection(left); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("get", func(b *testing.B) {
		perOp(b, func() {
			for b.Loop() {
				get(b)
			}
		})
	})
	b.Run("alone", func(b *testing.B) {
		perOp(b, func() {
			for b.Loop() {
				get(b)
				mustCreate(b, c, toClient)
				mustCreate(b, c, toServer)
				mustDelete(b, c, toClient)
				mustDelete(b, c, toServer)
			}
		})
	})
	b.Run("applied", func(b *testing.B) {
		installs, removes := changes(calls.Install, toClient, toServer), changes(calls.Remove, toClient, toServer)
		perOp(b, func() {
			for b.Loop() {
				get(b)
				if failed := c.Apply(installs); failed != nil {
					b.Fatal(failed)
				}
				if failed := c.Apply(removes); failed != nil {
					b.Fatal(failed)
				}
			}
		})
	})
	b.Run("create and delete", func(b *testing.B) {
		perOp(b, func() {
			for b.Loop() {
				mustCreate(b, c, toClient)
				mustDelete(b, c, toClient)
			}
		})
	})
}
