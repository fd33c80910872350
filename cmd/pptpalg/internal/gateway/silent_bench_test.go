package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/conntrack"
)

// silentCalls are calls of as many clients, each with a connection of its own.
func silentCalls(n int) []calls.Record {
	all := make([]calls.Record, n)
	for i := range all {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 4000)
		server, public := netip.MustParseAddrPort("203.0.113.9:1723"), netip.AddrFrom4([4]byte{198, 51, 100, byte(i >> 14)})
		all[i] = calls.Record{
			Number: uint64(i + 1), State: calls.Established,
			Connection: calls.Connection{
				Original: calls.Tuple{Src: client, Dst: server},
				Reply:    calls.Tuple{Src: server, Dst: netip.AddrPortFrom(public, uint16(10000+i&(1<<14-1)))},
			},
			Legs: [2]calls.LegRecord{{Known: true, Own: 7, Public: pptp.CallID(i%60000 + 1)}, {Known: true, Own: pptp.CallID(i), Public: pptp.CallID(i)}},
		}
	}
	return all
}

// inNamespace opens connections to the conntrack of a network namespace that nobody else has.
func inNamespace(b *testing.B) (packets, lists *conntrack.Conn) {
	b.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the benchmark
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skip(err)
	}
	packets, err := conntrack.Dial()
	if err != nil {
		b.Fatal(err)
	}
	lists, err = conntrack.Dial()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { packets.Close(); lists.Close() })
	return packets, lists
}

// silentGateway is a daemon whose calls are silent, with its entries in the kernel.
func silentGateway(b *testing.B, number int) *Gateway {
	packets, lists := inNamespace(b)
	records := silentCalls(number)
	cfg := Config{DataPath: datapath.Kernel, Ports: []uint16{1723}, StateDir: b.TempDir(), Table: calls.DefaultConfig(), Connections: 2 * number}
	d := newGateway(cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	d.kernel, d.lister, d.viewer = packets, lists, lists
	l, err := conntrack.Listen(cfg.Ports, packets, lists)
	if err != nil {
		b.Fatal(err)
	}
	d.listener = l
	d.choosePath()
	if err := d.openStore(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close(); d.store.Close() })
	for _, r := range records {
		if err := packets.Revive(r.Connection); err != nil {
			b.Fatal(err)
		}
	}
	if refused := d.editor.Restore(records, start); refused != 0 {
		b.Fatal(refused, "calls are refused")
	}
	d.ledger.Know(d.editor.Records(), false)
	d.compare()
	d.compare()
	if d.lacking.Load() != 0 || d.table.Calls() != number {
		b.Fatal(d.lacking.Load(), "flows are lacking;", d.table.Calls(), "calls")
	}
	return d
}

// BenchmarkSilent is an audit when there is nothing to do.
func BenchmarkSilent(b *testing.B) {
	d := silentGateway(b, 10_000)
	b.ReportAllocs()
	before := processTime(b)
	for b.Loop() {
		d.compare()
	}
	b.ReportMetric(float64(processTime(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
}

func processTime(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// reconcile runs the reconciler in the benchmark's network namespace.
func (g *Gateway) reconcile(b *testing.B) {
	ns, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	g.audit()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- g.sweep(ctx)
	}()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

// BenchmarkMending is how long the calls of a large table lack what somebody else deletes.
func BenchmarkMending(b *testing.B) {
	const number = 10_000
	d := silentGateway(b, number)
	d.reconcile(b)
	other, err := conntrack.Dial()
	if err != nil {
		b.Fatal(err)
	}
	defer other.Close()
	wait := func(b *testing.B, pause time.Duration, mended func() bool) {
		for !mended() {
			if time.Sleep(pause); b.Elapsed() > time.Minute*time.Duration(b.N) {
				b.Fatal("not mended")
			}
		}
	}
	records := silentCalls(number)
	b.Run("one", func(b *testing.B) {
		for i := range b.N {
			f := records[i*37%number].Flows()[i%2]
			if err := other.Delete(f); err != nil {
				b.Fatal(err)
			}
			wait(b, 100*time.Microsecond, func() bool {
				there, err := other.Has(f)
				return there && err == nil
			})
		}
		b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/mended")
	})
	b.Run("all", func(b *testing.B) {
		for range b.N {
			if out, err := exec.Command("conntrack", "-F").CombinedOutput(); err != nil {
				b.Fatal(err, string(out))
			}
			wait(b, 20*time.Millisecond, func() bool {
				flows, err1 := other.Flows()
				connections, err2 := other.Connections(d.cfg.Ports)
				return errors.Join(err1, err2) == nil && len(flows) == 2*number && len(connections) == number
			})
		}
		b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/mended")
	})
}

// BenchmarkIdle is what the reconciler takes of a processor while nothing happens.
func BenchmarkIdle(b *testing.B) {
	d := silentGateway(b, 10_000)
	d.reconcile(b)
	runtime.GC()
	before, began := processTime(b), time.Now()
	for range b.N {
		time.Sleep(100 * time.Second)
	}
	b.ReportMetric(100*float64(processTime(b)-before)/float64(time.Since(began)), "%cpu")
}
