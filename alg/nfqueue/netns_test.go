package nfqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(openOnly) != "" {
		_, err := Open(Config{Queue: testQueue}, acceptAny)
		fmt.Print(err)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// openOnly makes the test binary open the queue, print the error and exit.
const openOnly = "PPTPALG_TEST_OPEN_ONLY"

const (
	testQueue = 1723
	testPort  = 1723
	patience  = 10 * time.Second
)

func acceptAny(*Packet) Verdict { return Accept }

// needRoot skips a test that needs root, or fails it where skipping is forbidden.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("not root, and PPTPALG_NO_SKIP is set")
	}
	t.Skip("needs root for network namespaces and NFQUEUE")
}

// namespace is a network namespace of its own thread. Sockets and commands made
// by do are in it.
type namespace struct {
	tid   int
	calls chan func()
	ended chan struct{}
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	ns := &namespace{calls: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error)
	go ns.serve(ready)
	if err := <-ready; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		close(ns.calls)
		<-ns.ended
	})
	ns.sh(t, "ip link set lo up")
	return ns
}

// serve never unlocks its thread, so thread and namespace end with it.
func (ns *namespace) serve(ready chan<- error) {
	defer close(ns.ended)
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET)
	ns.tid = unix.Gettid()
	ready <- err
	for call := range ns.calls {
		call()
	}
}

func (ns *namespace) do(t testing.TB, what string, f func() error) {
	t.Helper()
	result := make(chan error)
	ns.calls <- func() { result <- f() }
	if err := <-result; err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// sh runs one command and returns what it prints.
func (ns *namespace) sh(t testing.TB, command string) string {
	t.Helper()
	var out []byte
	ns.do(t, command, func() (err error) {
		words := strings.Fields(command)
		out, err = exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return string(out)
}

// topology is two hosts and the cable between them:
//
//	client 10.9.0.1 ── veth, MTU 1500, TSO on ── 10.9.0.2 gateway (queue and server)
type topology struct {
	client, gateway *namespace
}

func newTopology(t testing.TB) topology {
	t.Helper()
	needRoot(t)
	top := topology{client: newNamespace(t), gateway: newNamespace(t)}
	top.client.sh(t, "ip link add cable0 type veth peer name cable1 netns "+strconv.Itoa(top.gateway.tid))
	top.client.sh(t, "ip addr add 10.9.0.1/24 dev cable0")
	top.gateway.sh(t, "ip addr add 10.9.0.2/24 dev cable1")
	top.client.sh(t, "ip link set cable0 up")
	top.gateway.sh(t, "ip link set cable1 up")
	return top
}

const (
	toQueue  = " -j NFQUEUE --queue-num 1723 --queue-bypass"
	tcpRule  = "PREROUTING -p tcp --dport 1723" + toQueue
	udpRule  = "PREROUTING -p udp --dport 1723" + toQueue
	outRule  = "OUTPUT -p tcp --dport 1723" + toQueue
	outUDP   = "OUTPUT -p udp --dport 1723" + toQueue
	appendTo = "iptables -w -t mangle -A "
	deleteIn = "iptables -w -t mangle -D "
)

// openIn opens a queue in a namespace; the test's end closes it.
func openIn(t testing.TB, ns *namespace, cfg Config, h Handler) *Queue {
	t.Helper()
	cfg.Queue = testQueue
	var q *Queue
	ns.do(t, "open", func() (err error) {
		q, err = Open(cfg, h)
		return err
	})
	t.Cleanup(func() { q.Close() })
	return q
}

// runIn opens a queue and runs it until the test's end.
func runIn(t testing.TB, ns *namespace, cfg Config, h Handler) *Queue {
	t.Helper()
	q := openIn(t, ns, cfg, h)
	run(t, q)
	return q
}

// run runs a queue until the returned function is called, or the test's end.
func run(t testing.TB, q *Queue) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-result; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func statsIn(t testing.TB, ns *namespace, q *Queue) Stats {
	t.Helper()
	var s Stats
	ns.do(t, "stats", func() (err error) {
		s, err = q.Stats()
		return err
	})
	return s
}

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// transfer sends data over a TCP connection from one namespace to another and
// returns what arrived.
func transfer(t testing.TB, from, to *namespace, address string, data []byte) []byte {
	t.Helper()
	near, far := connect(t, from, to, address)
	errs := make(chan error, 1)
	go func() {
		_, err := near.Write(data)
		errs <- err
		near.Close()
	}()
	got, err := io.ReadAll(far)
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	if err := <-errs; err != nil {
		t.Fatalf("send: %v", err)
	}
	return got
}

// connect opens a TCP connection; the test's end closes both ends of it.
func connect(t testing.TB, from, to *namespace, address string) (near, far net.Conn) {
	t.Helper()
	var l net.Listener
	to.do(t, "listen", func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	defer l.Close()
	from.do(t, "dial", func() (err error) {
		near, err = net.DialTimeout("tcp4", address, patience)
		return err
	})
	far, err := l.Accept()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	deadline := time.Now().Add(3 * patience)
	if err := errorOf(near.SetDeadline(deadline), far.SetDeadline(deadline)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	return near, far
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// datagrams is a UDP sender and its receiver.
type datagrams struct {
	near, far net.Conn
}

func newDatagrams(t testing.TB, from, to *namespace, address string) datagrams {
	t.Helper()
	var d datagrams
	to.do(t, "listen", func() error {
		at, err := net.ResolveUDPAddr("udp4", address)
		if err != nil {
			return err
		}
		d.far, err = net.ListenUDP("udp4", at)
		return err
	})
	from.do(t, "dial", func() (err error) {
		d.near, err = net.Dial("udp4", address)
		return err
	})
	t.Cleanup(func() { d.near.Close(); d.far.Close() })
	return d
}

// send sends the numbers from first to last, one to a packet.
func (d datagrams) send(t testing.TB, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		if _, err := d.near.Write([]byte(strconv.Itoa(i))); err != nil {
			t.Fatalf("send %d: %v", i, err)
		}
	}
}

// expect receives the numbers from first to last, in order.
func (d datagrams) expect(t testing.TB, first, last int) {
	t.Helper()
	if err := d.far.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	buf := make([]byte, 2000)
	for i := first; i <= last; i++ {
		n, err := d.far.Read(buf)
		if err != nil {
			t.Fatalf("receive %d: %v", i, err)
		}
		if got := string(buf[:n]); got != strconv.Itoa(i) {
			t.Fatalf("received %q, want %d", got, i)
		}
	}
}

// sendLen sends packets of size bytes each.
func (d datagrams) sendLen(t testing.TB, packets, size int) {
	t.Helper()
	if err := d.near.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	for i := range packets {
		if _, err := d.near.Write(make([]byte, size)); err != nil {
			t.Fatalf("send packet %d: %v", i, err)
		}
	}
}

// expectLen receives as many packets, of size bytes each, and no more: one that is sent
// now comes next.
func (d datagrams) expectLen(t testing.TB, packets, size int) {
	t.Helper()
	if err := d.far.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
	d.sendLen(t, 1, 1)
	buf := make([]byte, 70000)
	for i := range packets {
		if n, err := d.far.Read(buf); err != nil || n != size {
			t.Fatalf("received %d bytes, %v; want %d, in packet %d", n, err, size, i)
		}
	}
	if n, err := d.far.Read(buf); err != nil || n != 1 {
		t.Errorf("received %d bytes, %v; want no more than %d packets", n, err, packets)
	}
}

// tcpParts returns where an IPv4 packet's TCP header and payload start.
func tcpParts(b []byte) (header, payload int) {
	header = int(b[0]&0x0f) * 4
	return header, header + int(b[header+12]>>4)*4
}

// tcpSum is the folded sum over pseudo header and segment: 0xffff if the checksum
// is right (RFC 9293 section 3.1).
func tcpSum(b []byte) uint16 {
	header, _ := tcpParts(b)
	sum := uint32(6) + uint32(len(b)-header)
	for i, x := range append(bytes.Clone(b[12:20]), b[header:]...) {
		sum += uint32(x) << (8 * (1 - i&1))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// replaceAll writes new for old throughout the TCP payload, computes the checksum in
// full, and reports whether there was anything to do.
func replaceAll(b []byte, old, new byte) bool {
	header, payload := tcpParts(b)
	if !bytes.Contains(b[payload:], []byte{old}) {
		return false
	}
	for i, x := range b[payload:] {
		if x == old {
			b[payload+i] = new
		}
	}
	checksum := b[header+16 : header+18]
	clear(checksum)
	binary.BigEndian.PutUint16(checksum, ^tcpSum(b))
	return true
}
