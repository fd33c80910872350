package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/netns"
)

// The tests of this file have gateways as others build them, and real packets: where the
// check says that all is well, a control connection and a call's GRE come through, and
// where it says problem they do not, until they do by what it gives as the remedy.
//
//	client 198.51.100.2 ── .1 lan gateway wan 192.0.2.1 ── 192.0.2.2 server
const (
	forwardEstablished = "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; "
	masqueradeAll      = "iptables -t nat -A POSTROUTING -o wan -j MASQUERADE; "
	fromLAN            = "iptables -A FORWARD -i lan -o wan -m conntrack --ctstate NEW -j ACCEPT; "
)

const ufw = masqueradeAll + `iptables-restore --noflush <<'END'
*filter
:FORWARD DROP [0:0]
:ufw-before-forward - [0:0]
:ufw-user-forward - [0:0]
:ufw-after-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-reject-forward - [0:0]
:ufw-logging-deny - [0:0]
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 3 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-logging-deny -m conntrack --ctstate INVALID -m limit --limit 3/min -j RETURN
COMMIT
END
`

const firewalld = `nft -f - <<'END'
table inet firewalld {
	ct helper helper-pptp-tcp {
		type "pptp" protocol tcp
	}
	chain mangle_PREROUTING {
		type filter hook prerouting priority mangle + 10; policy accept;
		jump mangle_PREROUTING_ZONES
	}
	chain mangle_PREROUTING_ZONES {
		iifname "wan" goto mangle_PRE_external
		goto mangle_PRE_internal
	}
	chain mangle_PRE_external {
		return
	}
	chain mangle_PRE_internal {
		return
	}
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10; policy accept;
		iifname "lan" oifname "wan" jump nat_POST_external
	}
	chain nat_POST_external {
		meta nfproto ipv4 oifname != "lo" masquerade
	}
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
		iifname "lan" jump filter_PRE_internal
	}
	chain filter_PRE_internal {
		HELPER
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		ip6 daddr { ::/96, 2002::/24 } reject with icmpv6 addr-unreachable
		jump filter_FORWARD_POLICIES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_POLICIES {
		iifname "lan" oifname "wan" jump filter_FWD_int_to_ext
		iifname "wan" goto filter_FWD_external
	}
	chain filter_FWD_int_to_ext {
		POLICY
	}
	chain filter_FWD_external {
		reject with icmpx admin-prohibited
	}
}
END
`

const docker = masqueradeAll + `ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
ip link add br-0123456789ab type bridge; ip addr add 172.18.0.1/16 dev br-0123456789ab; ip link set br-0123456789ab up
iptables-restore --noflush <<'END'
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.18.0.0/16 ! -o br-0123456789ab -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER -i br-0123456789ab -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.10:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A FORWARD -o br-0123456789ab -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-0123456789ab -j DOCKER
-A FORWARD -i br-0123456789ab ! -o br-0123456789ab -j ACCEPT
-A DOCKER -d 172.17.0.10/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -i br-0123456789ab ! -o br-0123456789ab -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o br-0123456789ab -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*raw
-A PREROUTING -d 172.17.0.10/32 ! -i docker0 -j DROP
COMMIT
END
`

const shorewall = masqueradeAll + `iptables-restore --noflush <<'END'
*filter
:FORWARD DROP [0:0]
:dynamic - [0:0]
:lan_frwd - [0:0]
:wan_frwd - [0:0]
:lan-wan - [0:0]
:wan-lan - [0:0]
:smurfs - [0:0]
:sfilter - [0:0]
:tcpflags - [0:0]
:logflags - [0:0]
:reject - [0:0]
-A FORWARD -i lan -j lan_frwd
-A FORWARD -i wan -j wan_frwd
-A FORWARD -m addrtype --dst-type BROADCAST -j DROP
-A FORWARD -m addrtype --dst-type MULTICAST -j DROP
-A FORWARD -g reject
-A lan_frwd -o lan -g sfilter
-A lan_frwd -m conntrack --ctstate INVALID,NEW,UNTRACKED -j dynamic
-A lan_frwd -p tcp -j tcpflags
-A lan_frwd -o wan -j lan-wan
-A wan_frwd -o wan -g sfilter
-A wan_frwd -m conntrack --ctstate INVALID,NEW,UNTRACKED -j dynamic
-A wan_frwd -m conntrack --ctstate INVALID,NEW,UNTRACKED -j smurfs
-A wan_frwd -p tcp -j tcpflags
-A wan_frwd -o lan -j wan-lan
-A smurfs -s 0.0.0.0/32 -j RETURN
-A smurfs -m addrtype --src-type BROADCAST -g reject
-A smurfs -s 224.0.0.0/4 -g reject
-A sfilter -j DROP
-A tcpflags -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG FIN,PSH,URG -g logflags
-A tcpflags -p tcp -m tcp --tcp-flags SYN,RST SYN,RST -g logflags
-A logflags -j DROP
-A lan-wan -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A lan-wan -j ACCEPT
-A wan-lan -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A wan-lan -j DROP
-A reject -p tcp -j REJECT --reject-with tcp-reset
-A reject -j REJECT
COMMIT
END
`

const openwrt = `nft -f - <<'END'
table inet fw4 {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept } comment "!fw4: Handle forwarded flows"
		iifname "lan" jump forward_lan
		iifname { "wan", "wwan*" } jump forward_wan
		jump handle_reject
	}
	chain handle_reject {
		meta l4proto tcp reject with tcp reset
		reject
	}
	chain forward_lan {
		jump accept_to_wan
		ct status dnat accept
		jump accept_to_lan
	}
	chain forward_wan {
		icmp type echo-request limit rate 1000/second accept
		ct status dnat accept
		jump reject_to_wan
	}
	chain accept_to_lan {
		oifname "lan" counter packets 0 bytes 0 accept
	}
	chain accept_to_wan {
		meta nfproto ipv4 oifname { "wan", "wwan*" } ct state invalid counter packets 0 bytes 0 drop comment "!fw4: Prevent NAT leakage"
		oifname { "wan", "wwan*" } counter packets 0 bytes 0 accept
	}
	chain reject_to_wan {
		oifname { "wan", "wwan*" } counter packets 0 bytes 0 jump handle_reject
	}
	chain dstnat {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "wan" jump dstnat_wan
	}
	chain dstnat_wan {
		DSTNAT
	}
	chain srcnat {
		type nat hook postrouting priority srcnat; policy accept;
		oifname { "wan", "wwan*" } jump srcnat_wan
	}
	chain srcnat_wan {
		meta nfproto ipv4 masquerade
	}
	chain mangle_forward {
		type filter hook forward priority mangle; policy accept;
		iifname "wan" tcp flags & (fin | syn | rst) == syn tcp option maxseg size set rt mtu
	}
}
END
`

// ownTables has nft's own rules under the names that iptables-nft uses.
const ownTables = `nft -f - <<'END'
table ip nat {
	set lans {
		type ipv4_addr
		flags interval
		elements = { 198.51.100.0/24 }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @lans oifname "wan" masquerade
	}
}
table ip filter {
	set outward {
		type inet_service
		elements = { 80, 443, 1723 }
	}
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		ct state established,related ESTABLISHED
		iifname "lan" tcp dport @outward accept
	}
}
END
`

const kubernetes = masqueradeAll + forwardEstablished + fromLAN + `iptables-restore --noflush <<'END'
*filter
:FORWARD DROP [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-ROUTER - [0:0]
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
END
`

// severalChains has chains of several priorities at a hook: one that accepts does not overrule
// the next one.
const severalChains = masqueradeAll + `nft -f - <<'END'
table inet early {
	chain prerouting {
		type filter hook prerouting priority mangle - 10; policy accept;
		fib daddr type broadcast drop
		ct state invalid drop
		meta l4proto { tcp, udp } accept
	}
	chain forward {
		type filter hook forward priority filter - 10; policy accept;
		meta l4proto gre accept
		tcp dport 1723 accept
	}
}
table inet late {
	chain prerouting {
		type filter hook prerouting priority mangle + 10; policy accept;
		LATE
	}
	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		FORWARD
	}
}
END
`

func with(script string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		script = strings.ReplaceAll(script, "\t\t"+pairs[i]+"\n", "\t\t"+pairs[i+1]+"\n")
		script = strings.ReplaceAll(script, " "+pairs[i]+"\n", " "+pairs[i+1]+"\n")
	}
	return script
}

// gatewayCase is a gateway of others.
type gatewayCase struct {
	name   string
	script string
	check  string // that finds something; "" for none
	want   Result
	found  string
	change func(*Config)
	served uint16 // the port by which the server is reached, that is inside then; 0: it is outside
	lost   string // what does not come through: control, gre, or "" for nothing
}

var gatewayCases = []gatewayCase{
	{name: "plain", script: masqueradeAll + forwardEstablished + fromLAN + "iptables -P FORWARD DROP"},
	{name: "established alone", script: masqueradeAll + forwardEstablished + "iptables -P FORWARD DROP", check: "firewall-control", want: Problem, found: "policy", lost: "control"},
	{name: "established TCP alone", script: masqueradeAll + "iptables -A FORWARD -p tcp -j ACCEPT; iptables -P FORWARD DROP", check: "firewall-gre", want: Problem, found: "policy", lost: "gre"},
	{name: "invalid before accept", script: masqueradeAll + "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP; " + forwardEstablished + fromLAN + "iptables -P FORWARD DROP"},
	{name: "new without SYN", script: masqueradeAll + "iptables -A FORWARD -p tcp ! --syn -m conntrack --ctstate NEW -j DROP; " + forwardEstablished + fromLAN + "iptables -P FORWARD DROP"},
	{name: "bogons from outside", script: masqueradeAll + "iptables -A FORWARD -i wan -s 10.0.0.0/8 -j DROP; iptables -A FORWARD -i wan -s 198.51.100.0/24 -j DROP; iptables -A FORWARD ! -s 198.51.100.0/24 -i lan -j DROP; " + forwardEstablished + fromLAN + "iptables -P FORWARD DROP"},
	{name: "networks by address", script: masqueradeAll + "iptables -A FORWARD -s 198.51.100.0/24 -j ACCEPT; iptables -A FORWARD -d 198.51.100.0/24 -m state --state ESTABLISHED -j ACCEPT; iptables -P FORWARD DROP"},
	{name: "another network by address", script: masqueradeAll + "iptables -A FORWARD -s 198.51.101.0/24 -j ACCEPT; " + forwardEstablished + "iptables -P FORWARD DROP", check: "firewall-control", want: Problem, found: "policy", lost: "control"},

	{name: "ufw", script: ufw + "iptables -A ufw-user-forward -i lan -o wan -j ACCEPT"},
	{name: "ufw without a route", script: ufw, check: "firewall-control", want: Problem, found: "policy", lost: "control"},
	{name: "firewalld", script: with(firewalld, "HELPER", "return", "POLICY", "accept")},
	{name: "firewalld with a service", script: with(firewalld, "HELPER", `tcp dport 1723 ct helper set "helper-pptp-tcp"`, "POLICY", "accept"), check: "kernel-helper", want: Problem, found: "nft inet firewalld filter_PRE_internal"},
	{name: "firewalld without a policy", script: with(firewalld, "HELPER", "return", "POLICY", "reject with icmpx admin-prohibited"), check: "firewall-control", want: Problem, found: "filter_FWD_int_to_ext", lost: "control"},
	{name: "docker", script: docker + forwardEstablished + fromLAN},
	{name: "docker closes the network", script: docker, check: "firewall-control", want: Warning, found: "from lan to wan", lost: "control"},
	{name: "docker's user closes the host", script: docker + forwardEstablished + fromLAN + "iptables -I DOCKER-USER -i wan -j DROP; iptables -I DOCKER-USER -i wan -p tcp -j RETURN", check: "firewall-gre", want: Problem, found: "-A DOCKER-USER -i wan -j DROP", lost: "gre"},
	{name: "shorewall", script: shorewall},
	{name: "shorewall with TCP alone", script: shorewall + "iptables -D wan-lan -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -I wan-lan -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", check: "firewall-gre", want: Problem, found: "-A wan-lan -j DROP", lost: "gre"},
	{name: "openwrt", script: with(openwrt, "DSTNAT", "return")},
	{name: "openwrt with a server", script: with(openwrt, "DSTNAT", "tcp dport 1723 dnat ip to 198.51.100.2:1723"), served: 1723},
	{name: "openwrt with a server on another port", script: with(openwrt, "DSTNAT", "tcp dport 5000 dnat ip to 198.51.100.2:1723"), served: 5000, check: "ports", want: Problem, found: "TCP port 5000 is forwarded to 198.51.100.2:1723"},
	{name: "tables of iptables' names", script: with(ownTables, "ESTABLISHED", "accept")},
	{name: "tables of iptables' names, TCP alone", script: with(ownTables, "ESTABLISHED", "meta l4proto tcp accept"), check: "firewall-gre", want: Problem, found: "the policy of nft ip filter FORWARD", lost: "gre"},
	{name: "tables of iptables' names, and rules of iptables", script: with(ownTables, "ESTABLISHED", "accept") + "iptables -A FORWARD -m connmark --mark 7 -j ACCEPT; iptables -t nat -A POSTROUTING -s 10.9.9.0/24 -j SNAT --to 192.0.2.1"},
	{name: "kubernetes", script: kubernetes},
	{name: "several chains", script: with(severalChains, "LATE", "accept", "FORWARD", "accept")},
	{name: "several chains, the last one drops GRE", script: with(severalChains, "LATE", "accept", "FORWARD", "ct state established meta l4proto gre drop"), check: "firewall-gre", want: Problem, found: "nft inet late forward", lost: "gre"},
	{name: "several chains, a late one of prerouting drops", script: with(severalChains, "LATE", "iifname lan tcp dport 1723 drop", "FORWARD", "accept"), check: "firewall-control", want: Problem, found: "nft inet late prerouting", lost: "control"},

	{name: "GRE untracked", script: masqueradeAll + "iptables -t raw -A PREROUTING -p gre -j NOTRACK", check: "tracking", want: Problem, found: "NOTRACK", lost: "gre"},
	{name: "GRE untracked by nft", script: masqueradeAll + "nft 'table ip r { chain p { type filter hook prerouting priority raw; ip protocol { gre, esp } notrack; }; }'", check: "tracking", want: Problem, found: "nft ip r p", lost: "gre"},
	{name: "GRE untracked by nft, too late", script: masqueradeAll + "nft 'table ip r { chain p { type filter hook prerouting priority filter; ip protocol gre notrack; }; }'"},
	{name: "GRE in a zone", script: masqueradeAll + "iptables -t raw -A PREROUTING -p gre -j CT --zone 7", check: "tracking", want: Problem, found: "zone 7", lost: "gre"},
	{name: "a proxy of the web", script: masqueradeAll + "ip rule add fwmark 1 lookup 100; ip route add local default dev lo table 100; iptables -t mangle -N DIVERT; iptables -t mangle -A DIVERT -j MARK --set-mark 1; iptables -t mangle -A DIVERT -j ACCEPT; iptables -t mangle -A PREROUTING -p tcp -m socket --transparent -j DIVERT; iptables -t mangle -A PREROUTING -p tcp --dport 80 -j TPROXY --tproxy-mark 1 --on-port 3129"},
	{name: "networks one to one", script: forwardEstablished + "iptables -A FORWARD -d 198.51.100.0/30 -p tcp --dport 1723 -j ACCEPT; iptables -P FORWARD DROP; iptables -t nat -A PREROUTING -d 192.0.2.1 -j NETMAP --to 198.51.100.2; iptables -t nat -A POSTROUTING -s 198.51.100.2 -o wan -j NETMAP --to 192.0.2.1", served: 1723},
	{name: "floods dropped", script: masqueradeAll + "iptables -A FORWARD -p tcp --syn -m connlimit --connlimit-above 50 -j REJECT; iptables -A FORWARD -p tcp -m hashlimit --hashlimit-above 1000/sec --hashlimit-mode srcip --hashlimit-name flood -j DROP; iptables -t mangle -A PREROUTING -p tcp -m conntrack --ctstate NEW -m tcpmss ! --mss 536:65535 -j DROP; " + forwardEstablished + "iptables -A FORWARD -i lan -m limit --limit 100/sec -j ACCEPT; iptables -P FORWARD DROP"},
	{name: "a proxy", script: masqueradeAll + "iptables -t nat -A PREROUTING -i lan -p tcp -j REDIRECT --to-ports 3128", check: "proxy", want: Problem, found: "REDIRECT", lost: "control"},

	{name: "a server, by the port behind DNAT", script: masqueradeAll + forwardEstablished + "iptables -A FORWARD -i wan -p tcp --dport 1723 -j ACCEPT; iptables -P FORWARD DROP; iptables -t nat -A PREROUTING -d 192.0.2.1 -p tcp --dport 1724 -j DNAT --to 198.51.100.2:1723", served: 1724, change: withPorts(1724)},
	{name: "a server, by the port before DNAT", script: masqueradeAll + forwardEstablished + "iptables -A FORWARD -i wan -p tcp --dport 1724 -j ACCEPT; iptables -P FORWARD DROP; iptables -t nat -A PREROUTING -d 192.0.2.1 -p tcp --dport 1724 -j DNAT --to 198.51.100.2:1723", served: 1724, change: withPorts(1724), check: "firewall-control", want: Problem, found: "TCP to port 1723 from wan to lan", lost: "control"},
	{name: "a server, by the original port", script: masqueradeAll + forwardEstablished + "iptables -A FORWARD -i wan -p tcp -m conntrack --ctorigdstport 1724 -j ACCEPT; iptables -P FORWARD DROP; iptables -t nat -A PREROUTING -d 192.0.2.1 -p tcp --dport 1724 -j DNAT --to 198.51.100.2:1723", served: 1724, change: withPorts(1724)},
}

// TestGateways judges each, and sends packets through.
func TestGateways(t *testing.T) {
	for _, tt := range gatewayCases {
		t.Run(tt.name, func(t *testing.T) {
			n := newTrialNetwork(t)
			sh(t, n.gateway, tt.script)
			n.judge(t, tt)
			n.wantThrough(t, tt, tt.lost)
			if tt.want != Problem {
				return
			}
			f := findIn(t, n.gateway, tt.check, tt.change)
			mend(t, n.gateway, f, tt.change)
			n.wantThrough(t, tt, "")
		})
	}
}

// trialNetwork is the network of the trial, as a gateway of others.
type trialNetwork struct{ trial }

func newTrialNetwork(t *testing.T) *trialNetwork {
	t.Helper()
	bare(t) // for its scripts
	n := new(trialNetwork)
	for _, to := range []**netns.Place{&n.client, &n.gateway, &n.server} {
		p, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		*to = p
	}
	n.ctx = context.Background()
	if err := n.build(""); err != nil {
		t.Fatal(err)
	}
	sh(t, n.gateway, `ip link set lo up
ip link set client down; ip link set client name lan; ip link set lan up
ip link set server down; ip link set server name wan; ip link set wan up
ip route add default via 192.0.2.2
sysctl -qw net.netfilter.nf_conntrack_acct=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan.rp_filter=0 net.ipv4.conf.wan.rp_filter=0`)
	sh(t, n.client, "ip link set lo up")
	sh(t, n.server, "ip link set lo up")
	return n
}

// judge wants one finding, and all else to be well.
func (n *trialNetwork) judge(t *testing.T, tt gatewayCase) {
	t.Helper()
	cfg := config(t, tt.change)
	do(t, n.gateway, func() error {
		r := newReader(t.Context(), cfg)
		for _, c := range checks {
			switch f := c.find(r); c.name {
			case tt.check:
				wants(t, f, tt.want, tt.found)
			case "daemon", "gre-translation", "rules": // the first is not there; the others take their time
			default:
				wants(t, f, OK, "")
			}
		}
		return nil
	})
}

// wantThrough sends what calls are made of. lost is what must not come through.
func (n *trialNetwork) wantThrough(t *testing.T, tt gatewayCase, lost string) {
	t.Helper()
	if err := n.control(tt.served, lost != "control"); (err == nil) != (lost != "control") {
		t.Errorf("control connection: %v, and %q was to be lost", err, lost)
	}
	sh(t, n.gateway, "conntrack -D -p gre >/dev/null 2>&1 || true")
	do(t, n.gateway, n.install)
	if lost == "control" {
		return // then GRE is not asked for
	}
	n.sends = trialSends
	if lost == "gre" {
		n.sends = 3
	}
	if err := n.run(); (err == nil) != (lost != "gre") {
		t.Errorf("GRE: %v, and %q was to be lost", err, lost)
	}
}

// How long a connection may take that is to come up, and one that is not.
const (
	patience   = 10 * time.Second
	impatience = 300 * time.Millisecond
)

// control opens a control connection and waits for a byte from the server.
func (n *trialNetwork) control(served uint16, hopeful bool) error {
	from, at, to := n.client, n.server, trialServer
	if served != 0 {
		from, at, to = n.server, n.client, trialPublic
	} else {
		served = standard
	}
	var l net.Listener
	err := at.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", standard))
		return err
	})
	if err != nil {
		return err
	}
	defer l.Close()
	go greet(l)
	timeout := impatience
	if hopeful {
		timeout = patience
	}
	return from.Do(func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("%v:%d", to, served), timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		err = c.SetReadDeadline(time.Now().Add(timeout))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		return err
	})
}

func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, err = c.Write([]byte{1})
		_ = errors.Join(err, c.Close()) // the other end sees it
	}
}
