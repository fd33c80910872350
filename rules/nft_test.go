package rules

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pptpalg/conntrack"
)

// nftRows are configurations, each with its golden file.
var nftRows = map[string]Config{
	"print.nft":                onePort,
	"print-two-ports.nft":      {Queue: 7, Ports: []uint16{1723, 11723}, Bypass: conntrack.Bypass{Label: 118, Labelled: true}},
	"print-mark.nft":           {Ports: []uint16{1723}, Bypass: conntrack.Bypass{Mark: 0x20000000}},
	"print-all-segments.nft":   {Ports: []uint16{1723}, AllSegments: true},
	"print-reset.nft":          resetting,
	"print-data.nft":           dataPath,
	"print-data-no-mark.nft":   {Queue: 1723, Ports: []uint16{1723}, Data: Data{Queue: 9, Queues: 1}},
	"print-data-only-mark.nft": {Queue: 1723, Ports: []uint16{1723}, Data: Data{Queue: 1724, Queues: 2, Mark: 0xffffffff}},
}

func TestNFTTexts(t *testing.T) {
	for name, cfg := range nftRows {
		golden(t, name, cfg.NFT())
	}
}

var queueStatement = regexp.MustCompile(`queue num [0-9-]+( (bypass|fanout)(,fanout)?)?`)

// counting returns nft rules that count what they would queue. Not every kernel has
// nftables' queue; make test-vm runs the rules as they are.
func counting(text string) string { return queueStatement.ReplaceAllString(text, "counter") }

// The kernel takes the rules, twice, and what nft lists of them can be loaded again.
func TestKernelNFTLoads(t *testing.T) {
	needRoot(t)
	for name, cfg := range nftRows {
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t)
			text := counting(cfg.NFT())
			if strings.Contains(text, "queue num") {
				t.Fatalf("a queue is left in %s", text)
			}
			ns.run(t, text, "nft", "-f", "-")
			first := ns.run(t, "", "nft", "list", "ruleset")
			ns.run(t, text, "nft", "-f", "-")
			if again := ns.run(t, "", "nft", "list", "ruleset"); again != first {
				t.Errorf("loaded twice:\n%s\nonce:\n%s", again, first)
			}
			ns.run(t, "flush ruleset\n"+first, "nft", "-f", "-")
			if listed := ns.run(t, "", "nft", "list", "ruleset"); listed != first {
				t.Errorf("listed and loaded:\n%s\nwas:\n%s", listed, first)
			}
		})
	}
}

// Of a connection that is left alone by a label nothing is queued any more. Packets that conntrack calls INVALID are not queued either.
func TestKernelNFTLeftAlone(t *testing.T) {
	needRoot(t)
	client, gateway, server := newNamespace(t), newNamespace(t), newNamespace(t)
	wire(t, client, "toGateway", "10.0.1.2/24", gateway, "toClient", "10.0.1.1/24")
	wire(t, server, "toGateway", "10.0.2.2/24", gateway, "toServer", "10.0.2.1/24")
	gateway.run(t, "", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	gateway.restore(t, "iptables-nft", liveTable)
	cfg := onePort
	cfg.Bypass = conntrack.Bypass{Label: DefaultBypassLabel, Labelled: true}
	gateway.run(t, counting(cfg.NFT()), "nft", "-f", "-")
	left, other := hold(t, client, server), hold(t, client, server)
	data := func() int { return gateway.nftCounters(t)["data"] }
	if n := data(); n != 4 { // hello and its echo, of each
		t.Fatalf("%d packets with data before, want 4", n)
	}
	left.leaveAlone(t, gateway, cfg.Bypass)
	left.end(t)
	sendMalformed(t, client)
	if n := data(); n != 4 {
		t.Errorf("%d packets with data after the first was left alone, want 4", n)
	}
	other.say(t)
	if n := data(); n != 6 {
		t.Errorf("%d packets with data after the other spoke, want 6", n)
	}
	other.end(t)
}

func sendMalformed(t *testing.T, from namespace) {
	t.Helper()
	from.do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range malformed() {
			p = readdress(p, [4]byte{10, 0, 1, 2}, [4]byte{10, 0, 1, 1})
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
	segments := strings.Join(onePort.nftSegments("goto matched"), "\n")
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

// nftCounters returns the packet counters that have a comment.
func (ns namespace) nftCounters(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, m := range nftCounter.FindAllStringSubmatch(ns.run(t, "", "nft", "list", "ruleset"), -1) {
		var n int
		fmt.Sscan(m[1], &n)
		count[m[2]] += n
	}
	return count
}

// Each combination of header lengths, payload and flags is queued as the iptables rules
// would, or is a pure ACK with IP options.
func TestKernelNFTPredicate(t *testing.T) {
	needRoot(t)
	a, b := newNamespace(t), newNamespace(t)
	wire(t, a, "toB", "198.51.100.1/24", b, "toA", "198.51.100.2/24")
	a.run(t, nftPredicate(), "nft", "-f", "-")
	want := map[string]int{"match: all": 0, "match: matched": 0, "pass: all": 0, "pass: matched": 0}
	a.do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		eachSegment(1, func(s segment) {
			name, src := "pass", expectPass
			if wanted(s.flags, s.payload) || s.ip > 20 {
				name, src = "match", expectMatch
				want["match: matched"]++
			}
			want[name+": all"]++
			if e := unix.Sendto(fd, s.packet(src, there), 0, &unix.SockaddrInet4{Addr: there}); e != nil && e != unix.EPERM {
				err = e // EPERM is the chain's drop
			}
		})
		return err
	})
	if got := a.nftCounters(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
