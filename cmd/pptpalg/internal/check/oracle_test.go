package check

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/cmd/internal/netns"
	"pptpalg/conntrack"
)

// randomRule is a rule in the words of both programs.
type randomRule struct{ iptables, nft string }

// randomConditions are by kind; a rule has one of a kind at most.
var randomConditions = [][]randomRule{
	{{"-i lan", "iifname lan"}, {"-i wan", "iifname wan"}, {"! -i lan", "iifname != lan"}, {"-i w+", "iifname w*"}, {"-i eth0", "iifname eth0"}},
	{{"-o lan", "oifname lan"}, {"-o wan", "oifname wan"}, {"! -o wan", "oifname != wan"}},
	{{"-s 198.51.100.0/24", "ip saddr 198.51.100.0/24"}, {"! -s 198.51.100.0/25", "ip saddr != 198.51.100.0/25"}, {"-s 10.0.0.0/8", "ip saddr 10.0.0.0/8"}, {"-s 198.18.0.3", "ip saddr { 198.18.0.3, 198.18.0.4 }"}},
	{{"-d 198.51.100.0/24", "ip daddr 198.51.100.0/24"}, {"! -d 198.51.100.2", "ip daddr != 198.51.100.2"}, {"-d 198.0.0.0/8", "ip daddr @some"}},
	{{"-p gre", "meta l4proto gre"}, {"-p tcp", "ip protocol tcp"}, {"! -p tcp", "meta l4proto != tcp"}, {"! -p gre", "ip protocol != gre"}, {"-p 47", "meta l4proto @protocols"}, {"-p tcp --dport 1723", "tcp dport 1723"}},
	{{"-m conntrack --ctstate ESTABLISHED", "ct state established"}, {"-m conntrack --ctstate NEW", "ct state new"}, {"-m conntrack --ctstate RELATED,ESTABLISHED", "ct state { related, established }"}, {"-m conntrack ! --ctstate ESTABLISHED", "ct state != established"}, {"-m conntrack --ctstate INVALID", "ct state invalid"}, {"-m conntrack --ctstate DNAT", "ct status dnat"}},
	{{"-m conntrack --ctdir ORIGINAL", "ct direction original"}, {"-m conntrack --ctdir REPLY", "ct direction reply"}},
	{{"-m mark --mark 0", "meta mark 0"}, {"-m mark ! --mark 0", "meta mark != 0"}},
}

var randomTargets = []randomRule{{"-j ACCEPT", "accept"}, {"-j DROP", "drop"}, {"-j RETURN", "return"}, {"-j REJECT", "reject"}}

// randomRuleset writes chains two, one, which may jump to it, and the base chain, which may
// jump to both.
func randomRuleset(r *rand.Rand, nft bool) string {
	policy := []string{"ACCEPT", "DROP"}[r.IntN(2)]
	var text strings.Builder
	if nft {
		text.WriteString("flush ruleset\ntable ip nat { chain post { type nat hook postrouting priority srcnat; oifname wan masquerade; }; }\n" +
			"table ip rnd {\n set some { type ipv4_addr; flags interval; elements = { 198.0.0.0/8 }; }\n set protocols { type inet_proto; elements = { 47, esp }; }\n")
	} else {
		fmt.Fprintf(&text, "*filter\n:FORWARD %s [0:0]\n:one - [0:0]\n:two - [0:0]\n-A FORWARD -p udp -j ACCEPT\n", policy)
	}
	for i, name := range []string{"two", "one", "FORWARD"} {
		targets := randomTargets
		for _, to := range []string{"two", "one"}[:i] {
			calls := []randomRule{{"-j " + to, "jump " + to}, {"-g " + to, "goto " + to}}
			targets = slices.Concat(targets, calls, calls)
		}
		if nft {
			fmt.Fprintf(&text, " chain %s {\n", name)
			if name == "FORWARD" {
				fmt.Fprintf(&text, "  type filter hook forward priority 0; policy %s;\n  meta l4proto udp accept\n", strings.ToLower(policy))
			}
		}
		for range 2 + r.IntN(4) {
			rule := randomRuleOf(r, targets)
			if nft {
				fmt.Fprintf(&text, "  %s\n", rule.nft)
			} else {
				fmt.Fprintf(&text, "-A %s %s\n", name, rule.iptables)
			}
		}
		if nft {
			text.WriteString(" }\n")
		}
	}
	if nft {
		return text.String() + "}\n"
	}
	return text.String() + "COMMIT\n"
}

func randomRuleOf(r *rand.Rand, targets []randomRule) randomRule {
	var words randomRule
	for _, kind := range randomConditions {
		if r.IntN(7) == 0 {
			c := kind[r.IntN(len(kind))]
			words.iptables += c.iptables + " "
			words.nft += c.nft + " "
		}
	}
	t := targets[r.IntN(len(targets))]
	return randomRule{words.iptables + t.iptables, words.nft + t.nft}
}

// randomSets is how many rulesets are tried.
const randomSets = 100

// TestKernelAgrees loads rulesets that nobody would write, and wants their copies to do with
// the packets that the check sends what they do with a call's, where that does not depend
// on what the check cannot know.
func TestKernelAgrees(t *testing.T) {
	n := newTrialNetwork(t)
	// The server has the address that the check takes for one.
	server := network{devs: []string{"lan", "wan"}}.stranger("wan")
	sh(t, n.server, fmt.Sprintf("ip addr add %v/32 dev eth0", server))
	sh(t, n.gateway, masqueradeAll+fmt.Sprintf("ip route add %v via 192.0.2.2", server))
	do(t, n.gateway, func() error {
		c, err := conntrack.Dial()
		if err != nil {
			return err
		}
		in := calls.Flow{Src: server, Dst: trialPublic, Key: trialTaken, NewSrc: server, NewDst: trialClient, NewKey: trialOwn}
		out := calls.Flow{Src: trialClient, Dst: server, Key: trialPeer, NewSrc: trialPublic, NewDst: server, NewKey: trialPeer}
		return errors.Join(c.Create(in), c.Create(out), c.Close())
	})
	s := n.open(t, server)
	r := rand.New(rand.NewPCG(17, 23))
	sure := 0
	for i := range randomSets {
		nft := i%2 == 1
		text := randomRuleset(r, nft)
		load := "iptables-restore --noflush"
		if nft {
			load = "nft -f -"
		} else if i > 0 {
			load = "nft flush ruleset; iptables -t nat -A POSTROUTING -o wan -j MASQUERADE; " + load
		}
		sh(t, n.gateway, load+" <<'END'\n"+text+"END\n")
		var f firewall
		cfg := config(t)
		do(t, n.gateway, func() (err error) {
			f, err = newReader(t.Context(), cfg).firewall()
			return err
		})
		if len(f.clients) == 0 {
			t.FailNow()
		}
		call := f.clients[standard][0]
		for k, all := range [][]passed{call.outward, call.inward} {
			arrived := s[k].send(t)
			if slices.ContainsFunc(all, func(p passed) bool { return p.gone != all[0].gone }) {
				continue
			}
			sure++
			if _, dropped := f.dropped(all[0]); arrived == dropped || arrived != all[0].gone {
				t.Errorf("set %d, packet %d: arrived %t, and %+v\n%s", i, k, arrived, all[0], text)
			}
		}
	}
	if sure < randomSets {
		t.Errorf("sure of %d packets among %d", sure, 2*randomSets)
	}
}

// sender sends GRE from one socket to another, and UDP after it, which every ruleset lets
// pass: when that has arrived and GRE has not, it never will.
type sender struct {
	from, to   int
	sent, want parcel
	udp, heard *net.UDPConn
}

func (n *trialNetwork) open(t *testing.T, at netip.Addr) [2]sender {
	t.Helper()
	client, err := socket(n.client, trialClient)
	if err != nil {
		t.Fatal(err)
	}
	server, err := socket(n.server, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(client); unix.Close(server) })
	// Towards the client UDP has no NAT: the server has a route.
	sh(t, n.server, "ip route add 198.51.100.0/24 via 192.0.2.1")
	return [2]sender{
		{client, server, parcel{at, trialPeer}, parcel{trialPublic, trialPeer}, dialUDP(t, n.client, at), listenUDP(t, n.server, at)},
		{server, client, parcel{trialPublic, trialTaken}, parcel{at, trialOwn}, dialUDP(t, n.server, trialClient), listenUDP(t, n.client, trialClient)},
	}
}

func dialUDP(t *testing.T, p *netns.Place, to netip.Addr) (c *net.UDPConn) {
	t.Helper()
	do(t, p, func() (err error) {
		c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func listenUDP(t *testing.T, p *netns.Place, at netip.Addr) (c *net.UDPConn) {
	t.Helper()
	do(t, p, func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 9)))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// send reports whether a packet arrives.
func (s sender) send(t *testing.T) bool {
	t.Helper()
	if err := unix.Sendto(s.from, s.sent.gre(), 0, &unix.SockaddrInet4{Addr: s.sent.peer.As4()}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		if _, err := s.udp.Write([]byte("x")); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
		if err := s.heard.SetReadDeadline(time.Now().Add(trialWait)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.heard.Read(make([]byte, 9)); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("UDP does not arrive")
		}
	}
	got, err := s.receive()
	if err != nil {
		return false
	}
	if got != s.want {
		t.Errorf("arrived: %+v, want %+v", got, s.want)
	}
	return true
}

// receive does not wait for long: what is to come has come.
func (s sender) receive() (parcel, error) {
	b := make([]byte, 1500)
	n, _, err := unix.Recvfrom(s.to, b, unix.MSG_DONTWAIT)
	if errors.Is(err, unix.EAGAIN) {
		return parcel{}, err
	}
	return parse(b[:n]), err
}
