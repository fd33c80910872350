package alg

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
	"pptpalg/alg/pptp"
)

// many opens so many calls, each on a connection of its own, from 200 clients.
func many(b *testing.B, n int) *rig {
	cfg := calls.DefaultConfig()
	cfg.Requests = n
	r := newRig(b)
	r.table = calls.New(cfg)
	r.ed = NewEditor(r.table, DefaultConnections)
	for i := range n {
		server := netip.AddrFrom4([4]byte{203, 0, 113, byte(i % 4)})
		c := calls.Connection{
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
	for _, n := range []int{50_000, 100_000} {
		b.Run(fmt.Sprintf("calls=%d", n), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				r := many(b, n)
				r.table.Events() // as their takers do, with every packet
				r.table.Events()
				b.ReportMetric(float64(heap()-before)/float64(n), "B/call")
				if r.table.Calls() != n {
					b.Fatalf("%d calls", r.table.Calls())
				}
			}
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkLookup finds the connection of a segment among so many, in random order.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1, 1_000, 10_000, 50_000} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			r := many(b, n)
			raw := tcp(b, r.ed.all[0].control.Connection().Original, packet.ACK, 1, 1, []byte{0})
			seg, err := packet.Parse(raw)
			if err != nil {
				b.Fatal(err)
			}
			ends := make([][12]byte, n)
			for i, d := range r.ed.all {
				c := d.control.Connection().Original
				copy(ends[i][:], tcp(b, c, packet.ACK, 1, 1, nil)[12:])
			}
			rand.Shuffle(n, func(i, j int) { ends[i], ends[j] = ends[j], ends[i] })
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				copy(raw[12:], ends[i%n][:])
				if r.ed.Asks(seg) {
					b.Fatal("not found")
				}
			}
		})
	}
}

// BenchmarkEdit reads a Set-Link-Info whose ID is translated: parse, look-up, edit,
// checksum. Now and then its receiver acknowledges what came.
func BenchmarkEdit(b *testing.B) {
	r := newRig(b)
	w := r.masqueraded(netip.MustParseAddr("10.0.0.99")).handshake()
	w.outgoing(7, 1)
	w = r.masqueraded(insideAddr).handshake()
	public := w.outgoing(7, 9)
	raw := tcp(b, w.conn.Reply, packet.ACK, w.seq[server], w.seq[client], message(pptp.SetLinkInfo, 0, public, 0))
	scratch := bytes.Clone(raw)
	seq := w.seq[server]
	acks := tcp(b, w.conn.Original, packet.ACK, w.seq[client], seq, nil)
	ack, err := packet.Parse(acks)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%16 == 0 {
			binary.BigEndian.PutUint32(acks[28:], uint32(seq))
			r.ed.Edit(ack, false, r.now)
		}
		copy(scratch, raw)
		binary.BigEndian.PutUint32(scratch[24:], uint32(seq))
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

// BenchmarkSweep compares 50,000 calls with what conntrack has, at once, and in slices:
// a packet waits for one of them.
func BenchmarkSweep(b *testing.B) {
	r := many(b, 50_000)
	var live []calls.Connection
	for _, d := range r.ed.all {
		live = append(live, d.control.Connection())
	}
	rand.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	for _, most := range []int{len(live), 1_000} {
		b.Run(fmt.Sprintf("slice=%d", most), func(b *testing.B) {
			slices, now := 0, r.now
			for b.Loop() {
				now = now.Add(time.Second)
				slices += compare(r.ed, live, most, now)
			}
			b.ReportMetric(float64(b.Elapsed())/float64(slices), "ns/slice")
		})
	}
	if r.table.Calls() != 50_000 {
		b.Fatalf("%d calls are left", r.table.Calls())
	}
}

// compare takes the steps of a comparison and returns how many slices that were.
func compare(e *Editor, live []calls.Connection, most int, now time.Time) (slices int) {
	c := e.Compare(now)
	records := make([]calls.Record, 0, e.table.Calls())
	steps := []func() (more bool){
		func() bool {
			n := min(most, len(live))
			c.Found(live[:n])
			live = live[n:]
			return len(live) > 0
		},
		func() bool { _, more := c.Missing(most, nobody, now); return more },
		func() bool { _, more := c.Sweep(most, now); return more },
		func() (more bool) { records, more = c.Records(most, records); return more },
	}
	for _, step := range steps {
		for more := true; more; slices++ {
			more = step()
		}
	}
	return slices
}
