package nfqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// openFastIn opens queues in a namespace; the test's end closes them.
func openFastIn(t testing.TB, ns *namespace, cfg FastConfig, h Handler) *Fast {
	t.Helper()
	cfg.Queue = testQueue
	var f *Fast
	ns.do(t, "open", func() (err error) {
		f, err = OpenFast(cfg, h)
		return err
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// runFast runs queues until the returned function is called, or the test ends.
func runFast(t testing.TB, f *Fast) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-result; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestFastVerdicts(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+"PREROUTING -p tcp --dport 1723 -j MARK --set-mark 42")
	top.gateway.sh(t, appendTo+tcpRule)
	top.gateway.sh(t, appendTo+"INPUT -p tcp --dport 1723 -m mark --mark 0x102a")
	var packets, strange, dropped atomic.Int64
	runFast(t, openFastIn(t, top.gateway, FastConfig{Mark: 0x1000}, func(p Packet) Verdict {
		packets.Add(1)
		if p.Hook != Prerouting || p.Mark != 42 || p.Truncated || tcpSum(p.Payload) != 0xffff || len(p.Payload) > 1500 {
			strange.Add(1)
		}
		if bytes.Contains(p.Payload, []byte("hello")) && dropped.Add(1) == 1 {
			return Drop
		}
		if replaceAll(p.Payload, 'l', 'L') {
			return AcceptModified
		}
		return AcceptMarked
	}))
	data := append([]byte("hello"), bytes.Repeat([]byte("all is well. "), 1<<20/13)...)
	got := transfer(t, top.client, top.gateway, gatewayAddress, data)
	if want := bytes.ReplaceAll(data, []byte("l"), []byte("L")); !bytes.Equal(want, got) {
		t.Errorf("%d bytes arrived of %d, or others than sent", len(got), len(want))
	}
	if dropped.Load() < 2 || strange.Load() != 0 {
		t.Errorf("the dropped data came %d times; %d of %d packets were not as sent", dropped.Load(), strange.Load(), packets.Load())
	}
	list := strings.Split(top.gateway.sh(t, "iptables -w -t mangle -L INPUT -nvx"), "\n")
	if marked, err := strconv.ParseInt(strings.Fields(list[2])[0], 10, 64); err != nil || marked != packets.Load()-1 {
		t.Errorf("%d packets arrived with the mark, %v; want all but one of %d", marked, err, packets.Load())
	}
}

func TestFastPanicAccepts(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+tcpRule)
	var panics atomic.Int32
	cfg := FastConfig{Config: Config{Panicked: func(value any, stack []byte) {
		if value == "half done" && bytes.Contains(stack, []byte("kernel_test.go")) {
			panics.Add(1)
		}
	}}}
	runFast(t, openFastIn(t, top.gateway, cfg, func(p Packet) Verdict {
		clear(p.Payload)
		panic("half done")
	}))
	if got := transfer(t, top.client, top.gateway, gatewayAddress, []byte("hello")); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
	if panics.Load() < 3 { // SYN, ACK, data with FIN
		t.Errorf("%d panics told of", panics.Load())
	}
}

// TestFastTruncated: see TestTruncated.
func TestFastTruncated(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+outRule)
	var truncated atomic.Int64
	runFast(t, openFastIn(t, top.gateway, FastConfig{}, func(p Packet) Verdict {
		if p.Truncated {
			truncated.Add(1)
		}
		return AcceptModified
	}))
	data := bytes.Repeat([]byte("0123456789"), 1<<20)
	if got := transfer(t, top.gateway, top.gateway, "127.0.0.1:1723", data); !bytes.Equal(data, got) {
		t.Errorf("%d bytes arrived of %d, or others than sent", len(got), len(data))
	}
	if truncated.Load() == 0 {
		t.Error("no packet was truncated, so nothing is proven")
	}
}

// TestFastBalance: several queues share the packets, each keeps a flow's order, and
// what waits when they are stopped gets the handler's verdict.
func TestFastBalance(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, "iptables -w -t raw -A PREROUTING -p gre -j NFQUEUE --queue-balance 1723:1726 --queue-bypass")
	top.gateway.sh(t, greEnd)
	s := newSender(t, top, 200)
	var mu sync.Mutex
	last := make(map[byte]uint16) // Call ID by source; a source's are 16 apart, from 1 to 64 and round again
	disordered, total := 0, 0
	f := openFastIn(t, top.gateway, FastConfig{Queues: 4}, func(p Packet) Verdict {
		mu.Lock()
		defer mu.Unlock()
		total++
		source, id := p.Payload[15], binary.BigEndian.Uint16(p.Payload[26:])
		if before, ok := last[source]; ok && id != (before+15)%64+1 {
			disordered++
		}
		last[source] = id
		return AcceptModified
	})
	s.send(t, 3200)
	eventually(t, "3200 packets wait", func() bool { return waitingIn(t, top.gateway, f) == 3200 })
	used := 0
	top.gateway.do(t, "read counts", func() error {
		for queue := uint16(1723); queue <= 1726; queue++ {
			row, err := readRow(queue)
			if err != nil {
				return err
			}
			if row.stats.Queued > 0 {
				used++
			}
		}
		return nil
	})
	if used < 2 {
		t.Errorf("packets came to %d queues", used)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Run(ctx); err != nil {
		t.Fatalf("run: %v", err)
	}
	if total != 3200 || disordered != 0 {
		t.Errorf("the handler decided on %d packets, %d out of order", total, disordered)
	}
	if n := rulePackets(t, top.gateway); n != 3200 {
		t.Errorf("%d packets went on", n)
	}
}

func TestFastCloseWithoutRun(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	f := openFastIn(t, top.gateway, FastConfig{}, func(Packet) Verdict { return Drop })
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 50)
	eventually(t, "50 packets wait", func() bool { return waitingIn(t, top.gateway, f) == 50 })
	if err := errorOf(f.Close(), f.Close(), f.Run(t.Context())); err != nil {
		t.Fatalf("close: %v", err)
	}
	d.expect(t, 1, 50)
}

// TestFastCloseWhileIdle: a queue that waits for packets is woken, and is gone for the
// packets that come then.
func TestFastCloseWhileIdle(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	f := openFastIn(t, top.gateway, FastConfig{Queues: 2}, acceptAny)
	result := make(chan error, 1)
	go func() { result <- f.Run(t.Context()) }()
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 10)
	d.expect(t, 1, 10)
	if err := errorOf(f.Close(), <-result); err != nil {
		t.Fatalf("close: %v", err)
	}
	d.send(t, 11, 20)
	d.expect(t, 11, 20)
}

// TestFastDrainIsBounded: see TestDrainIsBounded.
func TestFastDrainIsBounded(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	f := openFastIn(t, top.gateway, FastConfig{Batch: 1}, func(Packet) Verdict {
		time.Sleep(drainLimit / 4) // the work of a slow handler, no wait for anything
		return Accept
	})
	stop := runFast(t, f)
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 100)
	eventually(t, "packets wait", func() bool { return waitingIn(t, top.gateway, f) > 90 })
	begin := time.Now()
	stop()
	if took := time.Since(begin); took > 3*drainLimit {
		t.Errorf("stopping took %v", took)
	}
	d.expect(t, 1, 100)
}

func TestFastOverrunIsSurvived(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	var overruns atomic.Int32
	gate := make(chan struct{})
	cfg := FastConfig{Config: Config{ReadBuffer: 8 << 10, Overrun: func() { overruns.Add(1) }}}
	f := openFastIn(t, top.gateway, cfg, func(Packet) Verdict {
		<-gate
		return Accept
	})
	runFast(t, f)
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 200)
	eventually(t, "packets are lost", func() bool {
		var s Stats
		top.gateway.do(t, "stats", func() (err error) {
			s, err = f.Stats()
			return err
		})
		return s.Overrun > 0
	})
	close(gate)
	eventually(t, "the overrun is told of", func() bool { return overruns.Load() > 0 })
	eventually(t, "nothing waits", func() bool { return waitingIn(t, top.gateway, f) == 0 })
	transferUDP(t, d)
}

// TestFastAndQueueTakenAlike: who comes second learns of the first, and leaves none of
// its queues bound.
func TestFastAndQueueTakenAlike(t *testing.T) {
	top := newTopology(t)
	first := openFastIn(t, top.gateway, FastConfig{Queues: 2}, acceptAny)
	open := func(cfg FastConfig) (err error) {
		top.gateway.do(t, "open again", func() error {
			_, err = OpenFast(cfg, acceptAny)
			return nil
		})
		return err
	}
	err := open(FastConfig{Config: Config{Queue: testQueue - 1}, Queues: 3})
	var taken *TakenError
	if !errors.As(err, &taken) || taken.Queue != testQueue || taken.PID != os.Getpid() {
		t.Fatalf("error %v, want a TakenError of queue %d", err, testQueue)
	}
	top.gateway.do(t, "open as a Queue", func() error {
		_, err = Open(Config{Queue: testQueue + 1}, acceptAny)
		return nil
	})
	if !errors.As(err, &taken) || taken.Queue != testQueue+1 {
		t.Errorf("error %v, want a TakenError of queue %d", err, testQueue+1)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	openFastIn(t, top.gateway, FastConfig{Queues: 3}, acceptAny)
	if err := open(FastConfig{Config: Config{Queue: testQueue - 1}}); err != nil {
		t.Errorf("queue %d is still bound: %v", testQueue-1, err)
	}
}

// TestFastAllocatesNothing counts what the whole process allocates while thousands of
// packets pass.
func TestFastAllocatesNothing(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, greRule)
	top.gateway.sh(t, greEnd)
	s := newSender(t, top, 1400)
	var packets atomic.Int64
	f := openFastIn(t, top.gateway, FastConfig{}, func(p Packet) Verdict {
		packets.Add(1)
		return rewrite(p)
	})
	runFast(t, f)
	pass := func(n int64) {
		want := packets.Load() + n
		s.send(t, int(n))
		for end := time.Now().Add(patience); packets.Load() < want && time.Now().Before(end); {
			runtime.Gosched()
		}
		if packets.Load() != want {
			t.Fatalf("%d packets came, want %d", packets.Load(), want)
		}
	}
	const burst = 250 // far less than the socket's buffer holds
	pass(burst)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20_000 / burst {
		pass(burst)
	}
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > 200 { // the runtime's own
		t.Errorf("%d allocations while 20000 packets passed", n)
	}
}
