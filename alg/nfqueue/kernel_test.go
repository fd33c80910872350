package nfqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const gatewayAddress = "10.9.0.2:1723"

func TestAccept(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+"PREROUTING -p tcp --dport 1723 -j MARK --set-mark 42")
	top.gateway.sh(t, appendTo+tcpRule)
	var packets, strange atomic.Int32
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		packets.Add(1)
		if p.Hook != Prerouting || p.Mark != 42 || p.Truncated || tcpSum(p.Payload) != 0xffff {
			strange.Add(1)
		}
		return Accept
	})
	got := transfer(t, top.client, top.gateway, gatewayAddress, []byte("hello"))
	if string(got) != "hello" {
		t.Errorf("received %q", got)
	}
	if packets.Load() < 4 { // SYN, ACK, data, FIN
		t.Errorf("the handler saw %d packets", packets.Load())
	}
	if strange.Load() != 0 {
		t.Errorf("%d packets were not as sent", strange.Load())
	}
}

func TestAcceptIgnoresEdits(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+tcpRule)
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		replaceAll(p.Payload, 'l', 'L')
		return Accept
	})
	if got := transfer(t, top.client, top.gateway, gatewayAddress, []byte("hello")); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
}

// modifier replaces l by L.
func modifier(p *Packet) Verdict {
	if replaceAll(p.Payload, 'l', 'L') {
		return AcceptModified
	}
	return Accept
}

func TestAcceptModified(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+tcpRule)
	runIn(t, top.gateway, Config{}, modifier)
	if got := transfer(t, top.client, top.gateway, gatewayAddress, []byte("hello")); string(got) != "heLLo" {
		t.Errorf("received %q", got)
	}
}

func TestDrop(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+tcpRule)
	var seen atomic.Int32
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		if bytes.Contains(p.Payload, []byte("hello")) && seen.Add(1) == 1 {
			return Drop
		}
		return Accept
	})
	if got := transfer(t, top.client, top.gateway, gatewayAddress, []byte("hello")); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
	if seen.Load() < 2 {
		t.Errorf("the dropped data came %d times, want its retransmission", seen.Load())
	}
}

func TestPanicAccepts(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+tcpRule)
	var panics, stackless atomic.Int32
	cfg := Config{Panicked: func(value any, stack []byte) {
		panics.Add(1)
		if value != "half done" || !bytes.Contains(stack, []byte("kernel_test.go")) {
			stackless.Add(1)
		}
	}}
	runIn(t, top.gateway, cfg, func(p *Packet) Verdict {
		clear(p.Payload)
		panic("half done")
	})
	if got := transfer(t, top.client, top.gateway, gatewayAddress, []byte("hello")); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
	eventually(t, "3 panics are told of", func() bool { return panics.Load() >= 3 }) // SYN, ACK, data with FIN
	if stackless.Load() != 0 {
		t.Errorf("%d panics told of without value or stack", stackless.Load())
	}
}

// TestVerdictsAndMark: every verdict in one stream of packets, and the mark on those that
// are to have it.
func TestVerdictsAndMark(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+"PREROUTING -p tcp --dport 1723 -j MARK --set-mark 42")
	top.gateway.sh(t, appendTo+tcpRule)
	top.gateway.sh(t, appendTo+"INPUT -p tcp --dport 1723 -m mark --mark 0x102a")
	var packets, strange, dropped atomic.Int64
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		packets.Add(1)
		if p.Hook != Prerouting || p.Mark != 42 || p.Truncated || tcpSum(p.Payload) != 0xffff || len(p.Payload) > 1500 {
			strange.Add(1)
		}
		if bytes.Contains(p.Payload, []byte("hello")) && dropped.Add(1) == 1 {
			return Drop
		}
		p.Mark |= 0x1000
		if replaceAll(p.Payload, 'l', 'L') {
			return AcceptModified
		}
		return Accept
	})
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

// TestRepeat: what is repeated meets the hook's rules again, with its new bytes and mark,
// and those of the next hook once.
func TestRepeat(t *testing.T) {
	top := newTopology(t)
	for _, rule := range []string{
		"PREROUTING -p tcp --dport 1723 -m mark --mark 42 -j ACCEPT",
		tcpRule,
		"INPUT -p tcp --dport 1723 -m mark --mark 42",
	} {
		top.gateway.sh(t, appendTo+rule)
	}
	var packets, again atomic.Int64
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		packets.Add(1)
		if p.Mark != 0 {
			again.Add(1)
		}
		p.Mark = 42
		if replaceAll(p.Payload, 'l', 'L') {
			return RepeatModified
		}
		return Repeat
	})
	data := bytes.Repeat([]byte("all is well. "), 1<<18/13)
	got := transfer(t, top.client, top.gateway, gatewayAddress, data)
	if want := bytes.ReplaceAll(data, []byte("l"), []byte("L")); !bytes.Equal(want, got) {
		t.Errorf("%d bytes arrived of %d, or others than sent", len(got), len(want))
	}
	if again.Load() != 0 {
		t.Errorf("%d packets came twice", again.Load())
	}
	for _, chain := range []string{"PREROUTING", "INPUT"} {
		list := strings.Split(top.gateway.sh(t, "iptables -w -t mangle -L "+chain+" -nvx"), "\n")
		if n, err := strconv.ParseInt(strings.Fields(list[2])[0], 10, 64); err != nil || n != packets.Load() {
			t.Errorf("%s: %d packets had the mark, %v; want %d", chain, n, err, packets.Load())
		}
	}
}

// settleCase is a batch that a handler decides on and Settle is called for.
type settleCase struct {
	name    string
	size    int // of a packet's data, bytes
	handler Handler
	settle  func() bool
	arrive  int
	panics  int32
}

// settlePackets is how many packets the batch has.
const settlePackets = 16

// TestSettle: while Settle is at work on a batch every packet of it waits in the kernel,
// whatever the handler decided and however many sends the verdicts need.
func TestSettle(t *testing.T) {
	modify := func(*Packet) Verdict { return AcceptModified }
	fail := func() bool { panic("x") }
	refuse := func() bool { return false }
	for _, tt := range []settleCase{
		{name: "accept", size: 100, handler: acceptAny, arrive: settlePackets},
		{name: "modified, several sends", size: 3 * sendLimit / 2 / settlePackets, handler: modify, arrive: settlePackets},
		{name: "drop", size: 100, handler: func(*Packet) Verdict { return Drop }},
		{name: "panics", size: 100, handler: func(*Packet) Verdict { panic("x") }, arrive: settlePackets, panics: settlePackets},
		{name: "settle panics", size: 100, handler: modify, settle: fail, arrive: settlePackets, panics: 1},
		{name: "settle refuses", size: 100, handler: modify, settle: refuse},
	} {
		t.Run(tt.name, tt.run)
	}
}

func (tt settleCase) run(t *testing.T) {
	needRoot(t)
	ns := newNamespace(t)
	ns.sh(t, appendTo+outUDP)
	var panics atomic.Int32
	decided, waiting := 0, []uint32(nil) // packets; in the kernel in each Settle
	var q *Queue
	q = openIn(t, ns, Config{
		Panicked: func(any, []byte) { panics.Add(1) },
		Settle: func() bool {
			if decided != settlePackets {
				t.Errorf("Settle was called after %d packets", decided)
			}
			waiting = append(waiting, statsIn(t, ns, q).Waiting)
			return tt.settle == nil || tt.settle()
		},
	}, func(p *Packet) Verdict {
		decided++
		return tt.handler(p)
	})
	d := newDatagrams(t, ns, ns, "127.0.0.1:1723")
	d.sendLen(t, settlePackets, tt.size)
	eventually(t, "all packets wait", func() bool { return statsIn(t, ns, q).Waiting == settlePackets })
	stop := run(t, q)
	eventually(t, "no packet waits", func() bool { return statsIn(t, ns, q).Waiting == 0 })
	stop()
	if diff := cmp.Diff([]uint32{settlePackets}, waiting); diff != "" {
		t.Errorf("packets that wait in each Settle (-want +got):\n%s", diff)
	}
	if panics.Load() != tt.panics {
		t.Errorf("told of %d panics, want %d", panics.Load(), tt.panics)
	}
	d.expectLen(t, tt.arrive, tt.size)
}

func TestOutputHook(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+outRule)
	var elsewhere atomic.Int32
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		if p.Hook != Output || tcpSum(p.Payload) != 0xffff {
			elsewhere.Add(1)
		}
		return modifier(p)
	})
	if got := transfer(t, top.gateway, top.client, "10.9.0.1:1723", []byte("hello")); string(got) != "heLLo" {
		t.Errorf("received %q", got)
	}
	if elsewhere.Load() != 0 {
		t.Errorf("%d packets from another hook, or with a wrong checksum", elsewhere.Load())
	}
}

// TestGSO sends megabytes through a link that hands over packets of many
// segments: the queue gets them cut, with checksums, and they may be altered.
func TestGSO(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+tcpRule)
	var packets, large, wrong atomic.Int64
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		packets.Add(1)
		if len(p.Payload) > 1500 {
			large.Add(1)
		}
		if tcpSum(p.Payload) != 0xffff {
			wrong.Add(1)
		}
		return modifier(p)
	})
	data := bytes.Repeat([]byte("all is well. "), 8<<20/13)
	got := transfer(t, top.client, top.gateway, gatewayAddress, data)
	if want := bytes.ReplaceAll(data, []byte("l"), []byte("L")); !bytes.Equal(want, got) {
		t.Errorf("%d bytes arrived of %d, or others than sent", len(got), len(want))
	}
	if large.Load() != 0 || wrong.Load() != 0 {
		t.Errorf("of %d packets %d exceed the MTU, %d have a wrong checksum", packets.Load(), large.Load(), wrong.Load())
	}
	if rule := rulePackets(t, top.gateway); rule*2 > packets.Load() {
		t.Errorf("the rule counted %d packets, the handler %d: the link handed over no large ones, so nothing is proven",
			rule, packets.Load())
	}
}

// rulePackets reads the first PREROUTING rule's counter, to which a packet of many
// segments is one.
func rulePackets(t *testing.T, ns *namespace) int64 {
	t.Helper()
	lines := strings.Split(ns.sh(t, "iptables -w -t mangle -L PREROUTING -nvx"), "\n")
	n, err := strconv.ParseInt(strings.Fields(lines[2])[0], 10, 64)
	if err != nil {
		t.Fatalf("read rule counter: %v", err)
	}
	return n
}

// TestTruncated: the loopback's MTU is 65536, a little more than the kernel copies.
// A verdict with the copy would cut the packet's end off.
func TestTruncated(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+outRule)
	var truncated atomic.Int64
	runIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		if p.Truncated {
			truncated.Add(1)
		}
		return AcceptModified
	})
	data := bytes.Repeat([]byte("0123456789"), 1<<20)
	got := transfer(t, top.gateway, top.gateway, "127.0.0.1:1723", data)
	if !bytes.Equal(data, got) {
		t.Errorf("%d bytes arrived of %d, or others than sent", len(got), len(data))
	}
	if truncated.Load() == 0 {
		t.Error("no packet was truncated, so nothing is proven")
	}
}

func TestSecondOpenerLearnsTheFirst(t *testing.T) {
	top := newTopology(t)
	openIn(t, top.gateway, Config{}, acceptAny)
	var err error
	top.gateway.do(t, "open again", func() error {
		_, err = Open(Config{Queue: testQueue}, acceptAny)
		return nil
	})
	var taken *TakenError
	if !errors.As(err, &taken) {
		t.Fatalf("error %v, want a TakenError", err)
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	if taken.PID != os.Getpid() || taken.Command != strings.TrimSpace(string(comm)) || taken.Queue != testQueue {
		t.Errorf("taken by %+v, want pid %d (%s)", taken, os.Getpid(), comm)
	}
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("%v does not wrap EPERM", err)
	}
	t.Log(err)
}

// TestTakenQueueAmongSeveral: who comes second learns of the first, and leaves none of
// its queues bound.
func TestTakenQueueAmongSeveral(t *testing.T) {
	top := newTopology(t)
	first := openIn(t, top.gateway, Config{Queues: 2}, acceptAny)
	open := func(queue uint16, queues int) (q *Queue, err error) {
		top.gateway.do(t, "open again", func() error {
			q, err = Open(Config{Queue: queue, Queues: queues}, acceptAny)
			return nil
		})
		return q, err
	}
	_, err := open(testQueue-1, 3)
	var taken *TakenError
	if !errors.As(err, &taken) || taken.Queue != testQueue || taken.PID != os.Getpid() {
		t.Fatalf("error %v, want a TakenError of queue %d", err, testQueue)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := open(testQueue-1, 3)
	if err != nil {
		t.Fatalf("a queue is still bound: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOpenWithoutCapability: the same errno, another cause.
func TestOpenWithoutCapability(t *testing.T) {
	top := newTopology(t)
	var out []byte
	top.gateway.do(t, "open as nobody", func() (err error) {
		self, err := os.Open("/proc/self/exe") // nobody may not reach the file by its path
		if err != nil {
			return err
		}
		defer self.Close()
		cmd := exec.Command("/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{self}
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), openOnly+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err = cmd.CombinedOutput()
		return err
	})
	if !strings.Contains(string(out), "CAP_NET_ADMIN") {
		t.Errorf("the error is %q", out)
	}
	t.Log(string(out))
}

func TestCloseLeavesPacketsToTheBypass(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+tcpRule)
	var packets atomic.Int32
	q := openIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		packets.Add(1)
		return modifier(p)
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- q.Run(ctx) }()
	near, far := connect(t, top.client, top.gateway, gatewayAddress)
	exchange := func(send, want string) {
		t.Helper()
		buf := make([]byte, len(want))
		if _, err := near.Write([]byte(send)); err != nil {
			t.Fatalf("send: %v", err)
		}
		if _, err := io.ReadFull(far, buf); err != nil || string(buf) != want {
			t.Fatalf("received %q, %v; want %q", buf, err, want)
		}
	}
	exchange("hello", "heLLo")
	cancel()
	if err := <-result; err != nil {
		t.Fatalf("run: %v", err)
	}
	before := packets.Load()
	exchange("hello", "hello")
	if packets.Load() != before {
		t.Error("the handler was called after Run had returned")
	}
	if err := q.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

// TestWaitsForRun: between Open and Run packets wait, and none comes cut.
func TestWaitsForRun(t *testing.T) {
	top := newTopology(t)
	var early, packets atomic.Int32
	started := make(chan struct{})
	q := openIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		packets.Add(1)
		select {
		case <-started:
		default:
			early.Add(1)
		}
		return Accept
	})
	top.gateway.sh(t, appendTo+udpRule)
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 20)
	eventually(t, "20 packets wait", func() bool { return statsIn(t, top.gateway, q).Waiting == 20 })
	close(started)
	result := make(chan error, 1)
	go func() { result <- q.Run(t.Context()) }()
	d.expect(t, 1, 20)
	if packets.Load() != 20 || early.Load() != 0 {
		t.Errorf("the handler saw %d packets, %d before Run", packets.Load(), early.Load())
	}
	if err := errorOf(q.Close(), <-result); err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestDrain stops a queue in which packets wait: each gets the handler's verdict.
func TestDrain(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	var packets atomic.Int32
	gate := make(chan struct{})
	q := openIn(t, top.gateway, Config{}, func(p *Packet) Verdict {
		<-gate
		packets.Add(1)
		return Accept
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- q.Run(ctx) }()
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 100)
	eventually(t, "100 packets wait", func() bool { return statsIn(t, top.gateway, q).Waiting == 100 })
	top.gateway.sh(t, deleteIn+udpRule)
	cancel()
	close(gate)
	if err := <-result; err != nil {
		t.Fatalf("run: %v", err)
	}
	d.expect(t, 1, 100)
	if packets.Load() != 100 {
		t.Errorf("the handler decided on %d packets", packets.Load())
	}
}

// TestCloseWithoutRun: what waits goes on as it came.
func TestCloseWithoutRun(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	var packets atomic.Int32
	q := openIn(t, top.gateway, Config{}, func(*Packet) Verdict {
		packets.Add(1)
		return Drop
	})
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 50)
	eventually(t, "50 packets wait", func() bool { return statsIn(t, top.gateway, q).Waiting == 50 })
	if err := q.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	d.expect(t, 1, 50)
	if packets.Load() != 0 {
		t.Errorf("the handler decided on %d packets", packets.Load())
	}
	if err := q.Run(t.Context()); err != nil {
		t.Errorf("run after close: %v", err)
	}
}

// TestCloseWhileIdle: queues that wait for packets are woken, and are gone, with their
// goroutines, for the packets that come then.
func TestCloseWhileIdle(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	q := openIn(t, top.gateway, Config{Queues: 2}, acceptAny)
	result := make(chan error, 1)
	go func() { result <- q.Run(t.Context()) }()
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 10)
	d.expect(t, 1, 10)
	if !strings.Contains(stacks(), loopName) {
		t.Errorf("no goroutine is in %s, so nothing is proven", loopName)
	}
	err := q.Close()
	if strings.Contains(stacks(), loopName) {
		t.Error("a goroutine of go-nfqueue is left")
	}
	if err := errorOf(err, <-result); err != nil {
		t.Fatalf("close: %v", err)
	}
	d.send(t, 11, 20)
	d.expect(t, 11, 20)
}

// loopName is the function of go-nfqueue whose goroutine a lane takes over.
const loopName = "go-nfqueue/v2.(*Nfqueue).socketCallback"

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// TestDrainIsBounded: with a handler too slow for what comes, stopping takes its
// limit and no more, and what waits then is accepted.
func TestDrainIsBounded(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	q := openIn(t, top.gateway, Config{}, func(*Packet) Verdict {
		time.Sleep(drainLimit / 4) // the work of a slow handler, no wait for anything
		return Accept
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- q.Run(ctx) }()
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 100)
	eventually(t, "packets wait", func() bool { return statsIn(t, top.gateway, q).Waiting > 90 })
	begin := time.Now()
	cancel()
	if err := <-result; err != nil {
		t.Fatalf("run: %v", err)
	}
	if took := time.Since(begin); took > 12*drainLimit { // all would take 25
		t.Errorf("stopping took %v", took)
	}
	d.expect(t, 1, 100)
}

func TestOverrunIsSurvived(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	var overruns atomic.Int32
	gate := make(chan struct{})
	cfg := Config{ReadBuffer: 8 << 10, Overrun: func() { overruns.Add(1) }}
	q := runIn(t, top.gateway, cfg, func(*Packet) Verdict {
		<-gate
		return Accept
	})
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 200)
	eventually(t, "packets are lost", func() bool { return statsIn(t, top.gateway, q).Overrun > 0 })
	close(gate)
	eventually(t, "the overrun is told of", func() bool { return overruns.Load() > 0 })
	eventually(t, "nothing waits", func() bool { return statsIn(t, top.gateway, q).Waiting == 0 })
	transferUDP(t, d)
}

// transferUDP sends a number until it arrives, past whatever arrives before it.
func transferUDP(t *testing.T, d datagrams) {
	t.Helper()
	const mark = 1 << 30
	if err := d.far.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	d.send(t, mark, mark)
	buf := make([]byte, 100)
	for {
		n, err := d.far.Read(buf)
		if err != nil {
			t.Fatalf("the queue is dead: %v", err)
		}
		if string(buf[:n]) == strconv.Itoa(mark) {
			return
		}
	}
}

func TestFullQueueIsCounted(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	q := openIn(t, top.gateway, Config{MaxLen: 5}, acceptAny)
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, 12)
	want := Stats{Waiting: 5, Full: 7, Queued: 5}
	eventually(t, "12 packets are counted", func() bool { return statsIn(t, top.gateway, q) == want })
}

// TestInterfaceGoesDown: the kernel takes back what waits of an interface, so
// verdicts come too late, many in a row.
func TestInterfaceGoesDown(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+udpRule)
	var refused atomic.Int32
	gate := make(chan struct{})
	cfg := Config{Failed: func(err error) {
		if errors.Is(err, unix.ENOENT) {
			refused.Add(1)
		}
	}}
	const packets = 4 * maxFailures
	q := runIn(t, top.gateway, cfg, func(*Packet) Verdict {
		<-gate
		return AcceptModified // which has a message of its own, and so an answer
	})
	d := newDatagrams(t, top.client, top.gateway, gatewayAddress)
	d.send(t, 1, packets)
	eventually(t, "packets wait", func() bool { return statsIn(t, top.gateway, q).Waiting == packets })
	top.gateway.sh(t, "ip link set cable1 down")
	close(gate)
	eventually(t, "every verdict is refused", func() bool { return refused.Load() == packets })
	top.gateway.sh(t, "ip link set cable1 up")
	transferUDP(t, d)
}

// TestReopenUnderTraffic: after a crash the rules stand, and packets come while
// the queue is set up.
func TestReopenUnderTraffic(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, appendTo+outUDP)
	d := newDatagrams(t, top.gateway, top.gateway, "127.0.0.1:1723")
	if err := d.near.SetDeadline(time.Now().Add(6 * patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				d.near.Write([]byte("x")) // EPERM where the kernel drops it
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for range 8 {
		var packets atomic.Int32
		q := openIn(t, top.gateway, Config{}, func(*Packet) Verdict {
			packets.Add(1)
			return Accept
		})
		result := make(chan error, 1)
		go func() { result <- q.Run(t.Context()) }()
		eventually(t, "a packet comes", func() bool { return packets.Load() > 0 })
		if err := errorOf(q.Close(), <-result); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
}

// TestDeadSocketEndsRun: an error that stays is not spun upon, and ends all queues.
func TestDeadSocketEndsRun(t *testing.T) {
	top := newTopology(t)
	q := openIn(t, top.gateway, Config{Queues: 3}, acceptAny)
	result := make(chan error, 1)
	go func() { result <- q.Run(t.Context()) }()
	replaceSocket(t, q.lanes[1])
	if err := <-result; err == nil {
		t.Error("Run returned no error")
	}
}

// replaceSocket puts a file that is no socket in the place of a lane's.
func replaceSocket(t *testing.T, l *lane) {
	t.Helper()
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/null: %v", err)
	}
	defer unix.Close(null)
	before, err := unix.Dup(int(l.fd))
	if err != nil {
		t.Fatalf("copy socket: %v", err)
	}
	defer unix.Close(before)
	if err := unix.Dup3(null, int(l.fd), unix.O_CLOEXEC); err != nil {
		t.Fatalf("replace socket: %v", err)
	}
	wake := &lane{fd: uintptr(before), cfg: Config{}.withListeners()} // a receive may wait on it
	wake.wake()
}

func TestStatsOfAClosedQueue(t *testing.T) {
	top := newTopology(t)
	q := openIn(t, top.gateway, Config{}, acceptAny)
	if err := q.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	top.gateway.do(t, "stats", func() error {
		if _, err := q.Stats(); !errors.Is(err, errNotBound) {
			t.Errorf("error %v", err)
		}
		return nil
	})
}

// TestBalance: several queues share the packets, each keeps a flow's order, and
// what waits when they are stopped gets the handler's verdict.
func TestBalance(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, "iptables -w -t raw -A PREROUTING -p gre -j NFQUEUE --queue-balance 1723:1726 --queue-bypass")
	top.gateway.sh(t, greEnd)
	s := newSender(t, top, 200)
	var mu sync.Mutex
	last := make(map[byte]uint16) // Call ID by source; a source's are 16 apart, from 1 to 64 and round again
	disordered, total := 0, 0
	q := openIn(t, top.gateway, Config{Queues: 4}, func(p *Packet) Verdict {
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
	eventually(t, "3200 packets wait", func() bool { return statsIn(t, top.gateway, q).Waiting == 3200 })
	if used := usedQueues(t, top.gateway, q); used < 2 {
		t.Errorf("packets came to %d queues", used)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Run(ctx); err != nil {
		t.Fatalf("run: %v", err)
	}
	if total != 3200 || disordered != 0 {
		t.Errorf("the handler decided on %d packets, %d out of order", total, disordered)
	}
	if n := rulePackets(t, top.gateway); n != 3200 {
		t.Errorf("%d packets went on", n)
	}
}

// usedQueues returns how many of the queues packets came to.
func usedQueues(t *testing.T, ns *namespace, q *Queue) (used int) {
	t.Helper()
	ns.do(t, "read counts", func() error {
		for _, l := range q.lanes {
			row, err := readRow(l.cfg.Queue)
			if err != nil {
				return err
			}
			if row.stats.Queued > 0 {
				used++
			}
		}
		return nil
	})
	return used
}

// TestPacketsAllocateNothing counts what the whole process allocates while thousands of
// packets pass.
func TestPacketsAllocateNothing(t *testing.T) {
	top := newTopology(t)
	top.gateway.sh(t, greRule)
	top.gateway.sh(t, greEnd)
	s := newSender(t, top, 1400)
	var packets atomic.Int64
	runIn(t, top.gateway, Config{Settle: func() bool { return true }}, func(p *Packet) Verdict {
		packets.Add(1)
		return rewrite(p)
	})
	pass := func(n int64) {
		want := packets.Load() + n
		for end := time.Now().Add(patience); packets.Load() < want; { // a loaded kernel may lose some
			if time.Now().After(end) {
				t.Fatalf("%d packets came, want %d", packets.Load(), want)
			}
			s.send(t, int(want-packets.Load()))
			for soon := time.Now().Add(time.Second); packets.Load() < want && time.Now().Before(soon); {
				runtime.Gosched()
			}
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
