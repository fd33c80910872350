package gateway

import (
	"log/slog"
	"net/netip"
	"runtime"
	"testing"

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

// BenchmarkSilent is a comparison with the kernel's table of a daemon whose calls are
// silent: what it takes when there is nothing to do.
func BenchmarkSilent(b *testing.B) {
	const number = 10_000
	packets, lists := inNamespace(b)
	records := silentCalls(number)
	cfg := Config{DataPath: datapath.Kernel, Ports: []uint16{1723}, StateDir: b.TempDir(), Table: calls.DefaultConfig(), Connections: 2 * number}
	d := newGateway(cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	d.kernel, d.lister, d.viewer = packets, lists, lists
	d.choosePath()
	if err := d.openStore(); err != nil {
		b.Fatal(err)
	}
	defer d.store.Close()
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
