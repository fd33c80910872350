package export

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// readSyslog reads messages behind their lengths, and returns the calls of which they tell.
func readSyslog(r *bufio.Reader, n int) (numbers []string, err error) {
	for range n {
		var length int
		if _, err := fmt.Fscanf(r, "%d ", &length); err != nil {
			return numbers, err
		}
		b := make([]byte, length)
		if _, err := io.ReadFull(r, b); err != nil {
			return numbers, err
		}
		numbers = append(numbers, told(string(b)))
	}
	return numbers, nil
}

// told is the call of which a message tells, or how many were lost.
func told(message string) string {
	for _, word := range strings.Fields(message) {
		if n, ok := strings.CutPrefix(word, "call="); ok && !strings.HasPrefix(n, `"`) {
			return n
		}
		if n, ok := strings.CutPrefix(word, "events="); ok {
			return n + " lost"
		}
	}
	return message
}

// TestReconnect has a collector that is not there yet, goes in the middle, and comes back:
// it gets every event, some perhaps twice.
func TestReconnect(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	address := l.Addr().String()
	must(l.Close())
	x := export(t, "syslog+tcp://"+address)
	x.add(opened(1))
	x.until("one that waits", func(s State) bool { return s.Waiting == 1 && !s.Up && s.Lag > 0 })
	l = listen(t, "tcp", address)
	var got []string
	accept := func(n int) net.Conn {
		c, err := l.Accept()
		must(err)
		some, err := readSyslog(bufio.NewReader(c), n)
		must(err)
		got = append(got, some...)
		return c
	}
	c := accept(1)
	x.until("nothing that waits", func(s State) bool { return s.Waiting == 0 && s.Up && s.Delivered == 1 && s.Lag == 0 })
	must(c.Close())
	x.add(opened(2), opened(3))
	c = accept(2)
	defer c.Close()
	x.until("all of them", func(s State) bool { return s.Waiting == 0 && s.Delivered >= 3 && s.Lost == 0 })
	if diff := cmp.Diff([]string{"1", "2", "3"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	x.stop()
	if s := x.State(time.Now()); s.Lost != 0 || s.Up {
		t.Errorf("at the end: %+v", s)
	}
}

// TestUnread has a collector that accepts and reads nothing, and one that then reads all:
// what the first one's machine has not acknowledged is sent again.
func TestUnread(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	x := export(t, "syslog+tcp://"+l.Addr().String())
	const all = 20000
	for i := range uint64(all) {
		e := opened(i + 1)
		x.add(e)
		if i%500 == 0 {
			x.until("that they are taken", func(State) bool { return x.sub.Idle() })
		}
	}
	c, err := l.Accept()
	must(err)
	x.until("some to be stuck", func(s State) bool { return s.Waiting > 0 && s.Waiting < all && s.Delivered > 0 })
	had := make(map[string]bool)
	must(c.(*net.TCPConn).SetReadDeadline(time.Now().Add(patience)))
	some, err := readSyslog(bufio.NewReader(c), 100)
	must(err)
	must(c.(*net.TCPConn).SetLinger(0))
	must(c.Close())
	lost := x.State(time.Now()).Delivered
	for _, n := range some {
		had[n] = true
	}
	if c, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for !had[fmt.Sprint(all)] {
		some, err := readSyslog(r, 1)
		must(err)
		had[some[0]] = true
	}
	// Those that were acknowledged and never read are the collector's.
	missing := 0
	for i := range all {
		if !had[fmt.Sprint(i+1)] {
			missing++
		}
	}
	if uint64(missing) > lost {
		t.Errorf("%d are missing, but only %d were acknowledged", missing, lost)
	}
	x.until("nothing that waits", func(s State) bool { return s.Waiting == 0 })
}

// TestFull: events that find no room are counted, and a message says how many.
func TestFull(t *testing.T) {
	target := parse(t, "syslog+udp://192.0.2.1")
	f := newSyslog(&target)
	q := newQueue(f, 3*len(f.payload(record(opened(1)))))
	for i := range uint64(5) {
		q.put(record(opened(i+1)), noon)
	}
	q.lose(1, noon)
	all := func(*item) bool { return true }
	var got []string
	for range 2 {
		for payload, ok := q.next(); ok; payload, ok = q.next() {
			got = append(got, told(string(payload)))
			q.wrote(0, noon)
		}
		q.settle(all, noon)
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "3 lost"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if delivered, lost, waiting, _ := q.state(); delivered != 4 || lost != 3 || waiting != 0 || q.bytes != 0 {
		t.Errorf("delivered %d, lost %d, waiting %d of %d bytes", delivered, lost, waiting, q.bytes)
	}
}

// TestRefusedDatagrams: while no collector has the port, events wait for one.
func TestRefusedDatagrams(t *testing.T) {
	c := packets(t, "udp", "127.0.0.1:0")
	address := c.LocalAddr().String()
	must(c.Close())
	for _, scheme := range []string{"syslog+udp", "ipfix+udp"} {
		x := export(t, scheme+"://"+address)
		x.add(translated(1))
		x.until("that it is refused", func(s State) bool { return s.Waiting == 1 && !s.Up })
		c := packets(t, "udp", address)
		b := make([]byte, 2000)
		must(c.SetReadDeadline(time.Now().Add(patience)))
		n, _, err := c.ReadFrom(b)
		must(err)
		if scheme == "syslog+udp" && told(string(b[:n])) != "1" {
			t.Errorf("it gets %s", b[:n])
		}
		x.until("that it is taken", func(s State) bool { return s.Waiting == 0 && s.Delivered == 1 })
		x.stop()
		must(c.Close())
	}
}

// TestJournalSocket writes to a journal that restarts.
func TestJournalSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	x := export(t, "journald://"+socket)
	x.add(opened(1))
	x.until("one that waits", func(s State) bool { return s.Waiting == 1 })
	for i := range 2 {
		c := packets(t, "unixgram", socket)
		x.add(opened(2))
		for range 2 - i {
			b := make([]byte, 2000)
			must(c.SetReadDeadline(time.Now().Add(patience)))
			n, _, err := c.ReadFrom(b)
			must(err)
			if !strings.Contains(string(b[:n]), "\nPPTPALG_CALL=") {
				t.Errorf("it gets %s", b[:n])
			}
		}
		must(c.Close())
		must(os.RemoveAll(socket))
	}
}

// TestEnd: what the collector does not take in time at the end is lost, and counted.
func TestEnd(t *testing.T) {
	x := export(t, "syslog+tcp://127.0.0.1:1")
	x.add(opened(1), opened(2))
	x.until("both to wait", func(s State) bool { return s.Waiting == 2 })
	begin := time.Now()
	x.stop()
	if s := x.State(time.Now()); s.Lost != 2 || s.Waiting != 0 || time.Since(begin) > patience {
		t.Errorf("after %v: %+v", time.Since(begin), s)
	}
	x = export(t, "syslog+tcp://127.0.0.1:1")
	x.stop() // nothing waits: it does not either
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	must(err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func packets(t *testing.T, network, address string) net.PacketConn {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	must(err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}
