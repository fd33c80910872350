package iptables

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/rules/internal/trial"
)

// These tests show the predicate alone to the kernel's xt_bpf: crafted packets,
// each with an answer to expect told by its source address, and two counters for
// each, of all packets and of those that match.

var (
	expectMatch   = [4]byte{192, 0, 2, 1}
	expectPass    = [4]byte{192, 0, 2, 2}
	expectInvalid = [4]byte{192, 0, 2, 3} // malformed: passes too
	there         = [4]byte{198, 51, 100, 2}
)

// countTable returns the counting rules for a chain of table raw, where conntrack
// has not yet looked at the packets.
func countTable(chain string) string {
	var b strings.Builder
	b.WriteString("*raw\n")
	for name, src := range map[string]string{"match": "192.0.2.1", "pass": "192.0.2.2", "invalid": "192.0.2.3"} {
		rule := "-A " + chain + " -s " + src
		fmt.Fprintf(&b, "%s -m comment --comment \"%s: all\"\n", rule, name)
		fmt.Fprintf(&b, "%s -m bpf --bytecode \"%s\" -m comment --comment \"%s: matched\"\n", rule, bytecode(predicate), name)
	}
	fmt.Fprintf(&b, "-A %s -s 192.0.2.0/24 -j DROP\nCOMMIT\n", chain)
	return b.String()
}

// crafted calls send with every packet and returns the counters to expect.
func crafted(step int, send func(p []byte) error) (map[string]int, error) {
	want := map[string]int{"match: all": 0, "match: matched": 0, "pass: all": 0, "pass: matched": 0, "invalid: all": 0, "invalid: matched": 0}
	var failed error
	trial.EachSegment(step, func(s trial.Segment) {
		name, src := "pass", expectPass
		if trial.Wanted(s.Flags, s.Payload) {
			name, src = "match", expectMatch
			want["match: matched"]++
		}
		want[name+": all"]++
		if err := send(s.Packet(src, there)); err != nil && failed == nil {
			failed = fmt.Errorf("send %+v: %w", s, err)
		}
	})
	for name, p := range trial.Malformed() {
		want["invalid: all"]++
		if err := send(trial.Readdress(p, expectInvalid, there)); err != nil && failed == nil {
			failed = fmt.Errorf("send %s: %w", name, err)
		}
	}
	return want, failed
}

// checkCounters waits until all packets are counted, then compares.
func checkCounters(t *testing.T, ns namespace, command string, want map[string]int) {
	t.Helper()
	var got map[string]int
	all := func(m map[string]int) int { return m["match: all"] + m["pass: all"] + m["invalid: all"] }
	trial.Eventually(t, func() bool {
		got = ns.counters(t, command, "raw")
		return all(got) == all(want)
	}, func() string { return fmt.Sprintf("counted %v, sent %v", got, want) })
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s: %d packets, want %d", name, got[name], n)
		}
	}
	t.Logf("%d packets, %d matched", all(got), got["match: matched"])
}

// Frames that arrive carry link padding, as Ethernet's short ones do.
func TestKernelPredicateIncoming(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		a, b := newNamespace(t), newNamespace(t)
		wire(t, a, "toB", "198.51.100.1/24", b, "toA", "198.51.100.2/24")
		b.IP(t, "link set toA address 02:00:00:00:00:02")
		b.restore(t, command, countTable("PREROUTING"))
		var want map[string]int
		a.Do(t, func() (err error) {
			send, done, err := frameSender("toB")
			if err != nil {
				return err
			}
			defer done()
			want, err = crafted(1, send)
			return err
		})
		checkCounters(t, b, command, want)
	})
}

// frameSender returns a function that sends IPv4 packets out of an interface, in
// frames with padding.
func frameSender(link string) (send func(p []byte) error, done func(), err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, nil, err
	}
	index, err := linkIndex(fd, link)
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	header := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00} // to, from, IPv4
	padding := make([]byte, 46)
	sent := 0
	return func(p []byte) error {
		if sent++; sent%256 == 0 {
			time.Sleep(time.Millisecond) // the receiver's backlog is short
		}
		frame := append(append(append([]byte(nil), header...), p...), padding...)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
	}, func() { unix.Close(fd) }, nil
}

func linkIndex(fd int, link string) (int, error) {
	req, err := unix.NewIfreq(link)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

func TestKernelPredicateOutgoing(t *testing.T) {
	eachBackend(t, func(t *testing.T, command string) {
		a, b := newNamespace(t), newNamespace(t)
		wire(t, a, "toB", "198.51.100.1/24", b, "toA", "198.51.100.2/24")
		a.restore(t, command, countTable("OUTPUT"))
		var want map[string]int
		a.Do(t, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			want, err = crafted(1, func(p []byte) error {
				err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: there})
				if err == unix.EPERM { // the counting chain's DROP
					return nil
				}
				return err
			})
			return err
		})
		checkCounters(t, a, command, want)
	})
}
