package nfqueue

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	nfq "github.com/florianl/go-nfqueue/v2"
	"golang.org/x/sys/unix"
)

// BenchmarkPacket is the whole way of a packet of 1400 bytes over the loopback
// through the queue, sender and receiver included. "bypass" is that way without a
// queue: the difference is the queue's cost.
func BenchmarkPacket(b *testing.B) {
	for _, bm := range []struct {
		name    string
		handler Handler
	}{
		{"bypass", nil},
		{"accept", acceptAny},
		{"modified", func(*Packet) Verdict { return AcceptModified }},
	} {
		b.Run(bm.name, func(b *testing.B) {
			needRoot(b)
			ns := newNamespace(b)
			ns.sh(b, appendTo+outUDP)
			if bm.handler != nil {
				runIn(b, ns, Config{}, bm.handler)
			}
			echo(b, newDatagrams(b, ns, ns, "127.0.0.1:1723"))
		})
	}
}

// echo keeps a window of packets under way, small enough for every buffer.
func echo(b *testing.B, d datagrams) {
	const window = 32
	payload, buf := make([]byte, 1400), make([]byte, 2000)
	if err := d.far.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		b.Fatalf("set deadline: %v", err)
	}
	b.ReportAllocs()
	for range window {
		if _, err := d.near.Write(payload); err != nil {
			b.Fatalf("send: %v", err)
		}
	}
	for b.Loop() {
		if _, err := d.far.Read(buf); err != nil {
			b.Fatalf("receive: %v", err)
		}
		if _, err := d.near.Write(payload); err != nil {
			b.Fatalf("send: %v", err)
		}
	}
}

// greRule queues where the data path does, and takes the packets away right behind
// the queue: what is measured is the queue, not the way of the packets after it.
const (
	greRule = "iptables -w -t raw -A PREROUTING -p gre" + toQueue
	greEnd  = "iptables -w -t mangle -A PREROUTING -p gre -j DROP"
)

// rewrite is what the data path does to a packet, less the look-up.
func rewrite(p *Packet) Verdict {
	binary.BigEndian.PutUint16(p.Payload[26:], 0x1234)
	return AcceptModified
}

// opened is what the contenders have in common.
type opened interface {
	Run(context.Context) error
}

// contender is a queue to measure.
type contender struct {
	name string
	open func(cfg Config, h Handler) (opened, error)
	h    Handler
	cost []float64 // CPU ns for a packet, one number for each round

	allocs float64 // for a packet, in the last round
}

func tuned(cfg Config, h Handler) (opened, error) { return Open(cfg, h) }

// plain is go-nfqueue used as its documentation shows it.
type plain struct {
	nf      *nfq.Nfqueue
	running chan struct{}
}

func openPlain(cfg Config, h Handler) (opened, error) {
	nf, err := nfq.Open(&nfq.Config{NfQueue: cfg.Queue, MaxQueueLen: cfg.MaxLen, MaxPacketLen: maxPacketLen, Copymode: nfq.NfQnlCopyPacket, AfFamily: unix.AF_INET})
	if err != nil {
		return nil, err
	}
	p := plain{nf: nf, running: make(chan struct{})}
	answer := func(a nfq.Attribute) int {
		<-p.running
		if h(&Packet{Payload: *a.Payload}) == AcceptModified {
			_ = nf.SetVerdictWithOption(*a.PacketID, nfq.NfAccept, nfq.WithAlteredPacket(*a.Payload))
		} else {
			_ = nf.SetVerdict(*a.PacketID, nfq.NfAccept)
		}
		return goOn
	}
	return p, errorOf(nf.Con.SetReadBuffer(cfg.ReadBuffer),
		nf.RegisterWithErrorFunc(context.Background(), answer, func(error) int { return end }))
}

func (p plain) Run(ctx context.Context) error {
	close(p.running)
	<-ctx.Done()
	return p.nf.Close()
}

// cpuTime is what the process has used, in ns.
func cpuTime(t testing.TB) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatalf("getrusage: %v", err)
	}
	return unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime)
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// backlog is how many packets wait when the measurement begins. So it has nothing of
// their sender's, and a queue never waits.
const backlog = 8192

// measure lets packets pile up, runs the queue until all have their verdict, and
// returns the CPU time that one took: the process's, garbage collection included.
func (c *contender) measure(t testing.TB, ns *namespace, s *sender) float64 {
	t.Helper()
	done := make(chan struct{})
	var packets atomic.Int64
	var q opened
	ns.do(t, "open", func() (err error) {
		q, err = c.open(Config{Queue: testQueue, MaxLen: 2 * backlog, ReadBuffer: 256 << 20}, func(p *Packet) Verdict {
			if packets.Add(1) == backlog {
				close(done)
			}
			return c.h(p)
		})
		return err
	})
	s.send(t, backlog)
	eventually(t, "all packets wait", func() bool { return waitingIn(t, ns) == backlog })
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	before, allocs := cpuTime(t), mallocs()
	go func() { result <- q.Run(ctx) }()
	<-done
	cancel()
	err := <-result
	cost := float64(cpuTime(t)-before) / backlog
	c.allocs = float64(mallocs()-allocs) / backlog
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return cost
}

func waitingIn(t testing.TB, ns *namespace) uint32 {
	t.Helper()
	var r row
	ns.do(t, "stats", func() (err error) {
		r, err = readRow(testQueue)
		return err
	})
	return r.stats.Waiting
}

// compare measures contenders in turn, b.N rounds.
func compare(b *testing.B, size int, contenders []*contender) {
	top := newTopology(b)
	top.gateway.sh(b, greRule)
	top.gateway.sh(b, greEnd)
	s := newSender(b, top, size)
	for b.Loop() {
		for _, c := range contenders {
			c.cost = append(c.cost, c.measure(b, top.gateway, s))
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, c := range contenders {
		b.ReportMetric(c.median(), c.name+"-cpu-ns/packet")
		b.ReportMetric(c.allocs, c.name+"-allocs/packet")
	}
}

func (c *contender) median() float64 {
	slices.Sort(c.cost)
	return c.cost[len(c.cost)/2]
}

// BenchmarkQueue compares the CPU time that a packet costs by go-nfqueue alone and in a
// Queue, in turn, so that a busy machine is busy for both. Run it with -benchtime=21x or
// so; the numbers are medians, the ratios plain to queue.
func BenchmarkQueue(b *testing.B) {
	needRoot(b)
	for _, size := range []int{100, 1400} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			all := []*contender{
				{name: "plain", open: openPlain, h: rewrite},
				{name: "queue", open: tuned, h: rewrite},
				{name: "plain-accept", open: openPlain, h: acceptAny},
				{name: "queue-accept", open: tuned, h: acceptAny},
			}
			compare(b, size, all)
			b.ReportMetric(all[0].median()/all[1].median(), "ratio")
			b.ReportMetric(all[2].median()/all[3].median(), "ratio-accept")
		})
	}
}
