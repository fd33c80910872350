package nft

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/conntrack"
	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

var onePort = rules.Config{Queue: 1723, Ports: []uint16{1723}}

// natTable opens the gateway's port 1723 to the server's 2000.
const natTable = `*nat
-A PREROUTING -d 10.0.1.1 -p tcp --dport 1723 -j DNAT --to-destination 10.0.2.2:2000
-A POSTROUTING -o toServer -j MASQUERADE
COMMIT
`

// These packets have the answer to expect in their source address.
var (
	expectMatch = [4]byte{192, 0, 2, 1}
	expectPass  = [4]byte{192, 0, 2, 2}
	there       = [4]byte{198, 51, 100, 2}
)

// nftRows are configurations, each with its golden file.
var nftRows = map[string]rules.Config{
	"print.nft":              onePort,
	"print-two-ports.nft":    {Queue: 7, Ports: []uint16{1723, 11723}, Bypass: conntrack.Bypass{Label: 118, Labelled: true}},
	"print-mark.nft":         {Ports: []uint16{1723}, Bypass: conntrack.Bypass{Mark: 0x20000000}},
	"print-all-segments.nft": {Ports: []uint16{1723}, AllSegments: true},
	"print-reset.nft":        {Queue: 1723, Ports: []uint16{1723}, ResetMark: rules.DefaultResetMark},
	"print-too-big.nft":      {Queue: 1723, Ports: []uint16{1723}, TooBig: true},
	"print-data.nft": {Queue: 1723, Ports: []uint16{1723}, Data: rules.Data{
		Queue: 1730, Queues: 4, ByCPU: true, Bypass: true, Mark: rules.DefaultMark,
	}},
	"print-data-no-mark.nft":   {Queue: 1723, Ports: []uint16{1723}, Data: rules.Data{Queue: 9, Queues: 1}},
	"print-data-only-mark.nft": {Queue: 1723, Ports: []uint16{1723}, Data: rules.Data{Queue: 1724, Queues: 2, Mark: 0xffffffff}},
}

func TestNFTTexts(t *testing.T) {
	for name, cfg := range nftRows {
		trial.Golden(t, name, Text(cfg))
	}
}

// The kernel takes the rules, twice, and what nft lists of them can be loaded again.
func TestKernelNFTLoads(t *testing.T) {
	trial.NeedRoot(t)
	for name, cfg := range nftRows {
		t.Run(name, func(t *testing.T) {
			ns := trial.NewNamespace(t)
			text := trial.Counting(Text(cfg))
			if strings.Contains(text, "queue num") {
				t.Fatalf("a queue is left in %s", text)
			}
			ns.Run(t, text, "nft", "-f", "-")
			first := ns.Run(t, "", "nft", "list", "ruleset")
			ns.Run(t, text, "nft", "-f", "-")
			if again := ns.Run(t, "", "nft", "list", "ruleset"); again != first {
				t.Errorf("loaded twice:\n%s\nonce:\n%s", again, first)
			}
			ns.Run(t, "flush ruleset\n"+first, "nft", "-f", "-")
			if listed := ns.Run(t, "", "nft", "list", "ruleset"); listed != first {
				t.Errorf("listed and loaded:\n%s\nwas:\n%s", listed, first)
			}
		})
	}
}

// Of a connection that is left alone by a label nothing is queued any more. Packets that conntrack calls INVALID are not queued either.
func TestKernelNFTLeftAlone(t *testing.T) {
	trial.NeedRoot(t)
	client, gateway, server := trial.NewNamespace(t), trial.NewNamespace(t), trial.NewNamespace(t)
	trial.Wire(t, client, "toGateway", "10.0.1.2/24", gateway, "toClient", "10.0.1.1/24")
	trial.Wire(t, server, "toGateway", "10.0.2.2/24", gateway, "toServer", "10.0.2.1/24")
	gateway.Run(t, "", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	gateway.Run(t, natTable, "iptables-nft-restore", "--noflush", "-w", "10")
	cfg := onePort
	cfg.Bypass = conntrack.Bypass{Label: rules.DefaultBypassLabel, Labelled: true}
	gateway.Run(t, trial.Counting(Text(cfg)), "nft", "-f", "-")
	left, other := trial.Hold(t, client, server), trial.Hold(t, client, server)
	data := func() int { return counters(t, gateway)["data"] }
	if n := data(); n != 4 { // hello and its echo, of each
		t.Fatalf("%d packets with data before, want 4", n)
	}
	left.LeaveAlone(t, gateway, cfg.Bypass)
	left.End(t)
	sendMalformed(t, client)
	if n := data(); n != 4 {
		t.Errorf("%d packets with data after the first was left alone, want 4", n)
	}
	other.Say(t)
	if n := data(); n != 6 {
		t.Errorf("%d packets with data after the other spoke, want 6", n)
	}
	other.End(t)
}

func sendMalformed(t *testing.T, from trial.Namespace) {
	t.Helper()
	from.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range trial.Malformed() {
			p = trial.Readdress(p, [4]byte{10, 0, 1, 2}, [4]byte{10, 0, 1, 1})
			if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: [4]byte{10, 0, 1, 1}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// nftPredicate counts, in table raw where conntrack has not looked yet, all packets of
// two sources, and those that the rules would queue.
func nftPredicate() string {
	var lines []string
	for _, r := range segmentRules(onePort, phrase{words: "goto matched"}) {
		lines = append(lines, r.String())
	}
	segments := strings.Join(lines, "\n")
	return fmt.Sprintf(`table ip count {
	chain output {
		type filter hook output priority raw;
		ip protocol tcp ip saddr 192.0.2.1 counter comment "match: all"
		ip protocol tcp ip saddr 192.0.2.2 counter comment "pass: all"
		ip protocol tcp ip saddr 192.0.2.0/24 jump segments
		ip saddr 192.0.2.0/24 drop
	}
	chain matched {
		ip saddr 192.0.2.1 counter comment "match: matched"
		ip saddr 192.0.2.2 counter comment "pass: matched"
		drop
	}
	chain segments {
		%s
	}
}
`, segments)
}

var nftCounter = regexp.MustCompile(`counter packets (\d+) bytes \d+ comment "([^"]*)"`)

// counters returns the packet counters that have a comment.
func counters(t *testing.T, ns trial.Namespace) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, m := range nftCounter.FindAllStringSubmatch(ns.Run(t, "", "nft", "list", "ruleset"), -1) {
		var n int
		fmt.Sscan(m[1], &n)
		count[m[2]] += n
	}
	return count
}

// Each combination of header lengths, payload and flags is queued as the iptables rules
// would, or is a pure ACK with IP options.
func TestKernelNFTPredicate(t *testing.T) {
	trial.NeedRoot(t)
	a, b := trial.NewNamespace(t), trial.NewNamespace(t)
	trial.Wire(t, a, "toB", "198.51.100.1/24", b, "toA", "198.51.100.2/24")
	a.Run(t, nftPredicate(), "nft", "-f", "-")
	want := map[string]int{"match: all": 0, "match: matched": 0, "pass: all": 0, "pass: matched": 0}
	a.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		trial.EachSegment(1, func(s trial.Segment) {
			name, src := "pass", expectPass
			if trial.Wanted(s.Flags, s.Payload) || s.IP > 20 {
				name, src = "match", expectMatch
				want["match: matched"]++
			}
			want[name+": all"]++
			if e := unix.Sendto(fd, s.Packet(src, there), 0, &unix.SockaddrInet4{Addr: there}); e != nil && e != unix.EPERM {
				err = e // EPERM is the chain's drop
			}
		})
		return err
	})
	if got := counters(t, a); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// TestKernelNFTMultipath is the same for the nft rules.
func TestKernelNFTMultipath(t *testing.T) {
	trial.NeedRoot(t)
	a, b := trial.NewNamespace(t), trial.NewNamespace(t)
	trial.Wire(t, a, "toB", "198.51.100.1/24", b, "toA", "198.51.100.2/24")
	a.Run(t, nftPredicate(), "nft", "-f", "-")
	for i, s := range trial.SYNs {
		before := counters(t, a)["match: matched"]
		a.Do(t, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			err = unix.Sendto(fd, trial.SYNPacket(i, expectMatch, there, 1723), 0, &unix.SockaddrInet4{Addr: there})
			if err == unix.EPERM { // the chain's drop
				return nil
			}
			return err
		})
		if queued := counters(t, a)["match: matched"] > before; queued != s.Wanted {
			t.Errorf("%s: queued: %v, want %v", s.Name, queued, s.Wanted)
		}
	}
}
