package alg

import (
	"bytes"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
	"pptpalg/conntrack"
)

// many opens so many calls, each on a connection of its own, from 200 clients.
func many(b *testing.B, n int) *rig {
	cfg := conntrack.DefaultConfig()
	cfg.Requests = n
	r := newRig(b)
	r.table = conntrack.New(cfg)
	r.ed = NewEditor(r.table, DefaultConnections)
	for i := range n {
		server := netip.AddrFrom4([4]byte{203, 0, 113, byte(i % 4)})
		c := conntrack.Connection{
			Original: tuple(netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 200)}), uint16(1024+i/200), server, 1723),
			Reply:    tuple(server, 1723, gatewayAddr, uint16(1024+i)),
		}
		c.Reply.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i >> 16)}), uint16(i))
		own := pptp.CallID(i / 200)
		r.ed.Open(c, r.now)
		w := &wire{rig: r, conn: c, seq: [2]packet.Seq{1, 1}}
		w.outgoing(own, pptp.CallID(i/4)) // unique per server
	}
	return r
}

// BenchmarkMemory states what the editor's heap is per call, in bytes, with every
// call on a control connection of its own.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		const n = 100_000
		r := many(b, n)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/call")
		if r.table.Calls() != n {
			b.Fatalf("%d calls", r.table.Calls())
		}
	}
}

// BenchmarkEdit reads a Set-Link-Info whose ID is translated: parse, look-up, edit,
// checksum.
func BenchmarkEdit(b *testing.B) {
	r := newRig(b)
	w := r.masqueraded(netip.MustParseAddr("10.0.0.99")).handshake()
	w.outgoing(7, 1)
	w = r.masqueraded(insideAddr).handshake()
	public := w.outgoing(7, 9)
	raw := tcp(b, w.conn.Reply, packet.ACK, w.seq[server], w.seq[client], message(pptp.SetLinkInfo, 0, public, 0))
	scratch := bytes.Clone(raw)
	seq := w.seq[server]
	b.ReportAllocs()
	for b.Loop() {
		copy(scratch, raw)
		scratch[24], scratch[25], scratch[26], scratch[27] = byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq)
		seg, err := packet.Parse(scratch)
		if err != nil {
			b.Fatal(err)
		}
		if out := r.ed.Edit(seg, false, r.now); out.Verdict != Edited {
			b.Fatalf("%v, %v", out.Verdict, out.Reason)
		}
		seq = seq.Add(24)
	}
}

// BenchmarkSweep compares 50,000 calls with what conntrack has.
func BenchmarkSweep(b *testing.B) {
	r := many(b, 50_000)
	var live []conntrack.Connection
	for _, s := range r.ed.senders {
		if s.side == conntrack.Initiator {
			live = append(live, s.dialogue.connection)
		}
	}
	now := r.now
	for b.Loop() {
		now = now.Add(time.Second)
		r.ed.Sweep(live, now, now)
		r.ed.Records()
	}
	if r.table.Calls() != 50_000 {
		b.Fatalf("%d calls are left", r.table.Calls())
	}
}
