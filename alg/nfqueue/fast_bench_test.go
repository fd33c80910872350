package nfqueue

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// greRule queues where the data path does, and takes the packets away right behind
// the queue: what is measured is the queue, not the way of the packets after it.
const (
	greRule = "iptables -w -t raw -A PREROUTING -p gre" + toQueue
	greEnd  = "iptables -w -t mangle -A PREROUTING -p gre -j DROP"
)

// rewrite is what the data path does to a packet, less the look-up.
func rewrite(p Packet) Verdict {
	binary.BigEndian.PutUint16(p.Payload[26:], 0x1234)
	return AcceptModified
}

// opened is what a Queue and a Fast have in common.
type opened interface {
	Run(context.Context) error
	Stats() (Stats, error)
}

// contender is a queue to measure.
type contender struct {
	name string
	open func(cfg Config, h Handler) (opened, error)
	h    Handler
	cost []float64 // CPU ns for a packet, one number for each round
}

func plain(cfg Config, h Handler) (opened, error) { return Open(cfg, h) }

func fast(cfg Config, h Handler) (opened, error) { return OpenFast(FastConfig{Config: cfg}, h) }

// cpuTime is what the process has used, in ns.
func cpuTime(t testing.TB) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatalf("getrusage: %v", err)
	}
	return unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime)
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
		q, err = c.open(Config{Queue: testQueue, MaxLen: 2 * backlog, ReadBuffer: 256 << 20}, func(p Packet) Verdict {
			if packets.Add(1) == backlog {
				close(done)
			}
			return c.h(p)
		})
		return err
	})
	s.send(t, backlog)
	eventually(t, "all packets wait", func() bool { return waitingIn(t, ns, q) == backlog })
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	before := cpuTime(t)
	go func() { result <- q.Run(ctx) }()
	<-done
	cancel()
	err := <-result
	cost := float64(cpuTime(t)-before) / backlog
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return cost
}

func waitingIn(t testing.TB, ns *namespace, q opened) uint32 {
	t.Helper()
	var s Stats
	ns.do(t, "stats", func() (err error) {
		s, err = q.Stats()
		return err
	})
	return s.Waiting
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
	}
}

func (c *contender) median() float64 {
	slices.Sort(c.cost)
	return c.cost[len(c.cost)/2]
}

// BenchmarkFast compares the CPU time that a packet costs in Open's queue and in
// OpenFast's, in turn, so that a busy machine is busy for both. Run it with
// -benchtime=21x or so; the numbers are medians, the ratios plain to fast.
func BenchmarkFast(b *testing.B) {
	needRoot(b)
	for _, size := range []int{100, 1400} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			all := []*contender{
				{name: "plain", open: plain, h: rewrite},
				{name: "fast", open: fast, h: rewrite},
				{name: "plain-accept", open: plain, h: acceptAny},
				{name: "fast-accept", open: fast, h: acceptAny},
			}
			compare(b, size, all)
			b.ReportMetric(all[0].median()/all[1].median(), "ratio")
			b.ReportMetric(all[2].median()/all[3].median(), "ratio-accept")
		})
	}
}
