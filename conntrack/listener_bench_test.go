package conntrack

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// passer opens and closes TCP connections through the gateway, all from one thread: what
// the kernel does for them, conntrack's work in the softirq included, counts as the thread's.
type passer struct {
	server int
	next   uint16
}

// openAndClose has n connections to port 80 come and go. Each comes from a port from which
// one came before: of that one the kernel then destroys the entry.
func (p *passer) openAndClose(b *testing.B, n int) {
	to := unix.SockaddrInet4{Addr: netip.MustParseAddr(serverAddr).As4(), Port: 80}
	for range n {
		p.next = p.next%64 + 1
		fd := must1(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))(b)
		must0(b, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		must0(b, unix.Bind(fd, &unix.SockaddrInet4{Port: 20000 + int(p.next)}))
		must0(b, unix.Connect(fd, &to))
		far, _, err := unix.Accept(p.server)
		must0(b, err)
		for _, end := range []int{fd, far} { // with a RST, so that the port is free at once
			must0(b, unix.SetsockoptLinger(end, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
			must0(b, unix.Close(end))
		}
	}
}

func must0(b *testing.B, err error) {
	if err != nil {
		b.Fatal(err)
	}
}

func must1[T any](v T, err error) func(b *testing.B) T {
	return func(b *testing.B) T {
		must0(b, err)
		return v
	}
}

// BenchmarkListening states what a Listener costs other people's connections: the ratio of
// the CPU time of a connection's opening and closing through the gateway with one and
// without, in rounds that are taken in turn.
func BenchmarkListening(b *testing.B) {
	const round = 500
	n := newNetwork(b)
	n.gateway.run(b, "iptables -t nat -A POSTROUTING -o server -j MASQUERADE")
	var p passer
	n.server.do(func() { p.server = must1(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))(b) })
	must0(b, unix.Bind(p.server, &unix.SockaddrInet4{Port: 80}))
	must0(b, unix.Listen(p.server, 16))
	b.Cleanup(func() { unix.Close(p.server) })

	var cpu, wall [2][]float64 // of a connection, in ns, without and with a Listener
	run := func(with int) {
		if with == 1 {
			l := n.gateway.listen(b)
			defer l.Close()
		}
		n.client.do(func() {
			p.openAndClose(b, 64) // after these, each has a predecessor of its kind
			began, before := time.Now(), threadTime(b)
			p.openAndClose(b, round)
			cpu[with] = append(cpu[with], float64(threadTime(b)-before)/round)
			wall[with] = append(wall[with], float64(time.Since(began))/round)
		})
	}
	for b.Loop() {
		run(0)
		run(1)
		run(1)
		run(0)
	}
	b.ReportMetric(median(cpu[0]), "cpu-ns/without")
	b.ReportMetric(median(cpu[1]), "cpu-ns/with")
	b.ReportMetric(median(cpu[1])/median(cpu[0]), "cpu-ratio")
	b.ReportMetric(median(wall[1])/median(wall[0]), "wall-ratio")
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
