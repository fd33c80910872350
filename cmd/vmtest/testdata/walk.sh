#!/bin/sh
# What somebody new does with the package, on a gateway of Debian's with systemd. Each
# step says what it expects; the first that is wrong ends the machine with what it saw.
#
#   c1 10.0.0.10 ─┐
#                 ├─ lan0 (this machine) wan0 198.51.100.1 ── isp ── server 203.0.113.10
#   c2 10.0.0.11 ─┘
set -u
server=203.0.113.10
inner=192.168.99.1

end() { # RESULT: tells it, and stops the machine
	echo "VM-TEST: $1"
	sync
	systemctl "$2" 2>/dev/null # without logind it grumbles, and does it
	exit
}

fail() {
	echo "$*"
	pptpalg status
	pptpalg explain 10.0.0.10
	pptpalg check
	tail -n 5 /tmp/*.log
	journalctl -u "pptpalg*" -n 20 -o cat --no-pager
	end "FAIL $1" poweroff
}

# scene NAME: it is one of those that were asked for, or all are
only=$(sed -n 's/.* VMTEST_SCENES="\([^"]*\)".*/\1/p' /proc/cmdline)
scene() { echo "$1" | grep -Eq -- "$only" && "$1"; }

step() { echo "fresh: $(cut -d' ' -f1 /proc/uptime) $*"; }

# want TEXT COMMAND...: what the command prints has the text, whatever its exit code
want() {
	text=$1
	shift
	said=$("$@" 2>&1)
	case $said in *"$text"*) return ;; esac
	fail "\"$*\" does not say \"$text\":" "$said"
}

# await COMMAND...: it succeeds before long
await() {
	for _ in $(seq 60); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.5
	done
	fail "\"$*\" has not come true"
}

# glance TEXT: the first line of status has the text within ten seconds
glance() {
	broken=$(now)
	await sees "$1"
	told $((asked - broken))
}
now() { date +%s; }
sees() {
	asked=$(now)
	pptpalg status 2>/dev/null | head -n 1 | grep -qF -- "$1"
}
told() { # SECONDS
	step "status: $(pptpalg status 2>/dev/null | head -n 1) (after $1 s)"
	[ "$1" -le 10 ] || fail "that is late"
}

# glance_at_call TEXT: the same, from when the call was requested
glance_at_call() {
	await sees "$1"
	told $((asked - $(date -d "$(pptpalg calls --json | sed -n 's/.*"since": *"\([^"]*\)".*/\1/p' | head -n 1)" +%s)))
}

# first CODE: explain names this cause first
named() { pptpalg explain 10.0.0.10 | head -n 1 | grep -q "($1)"; }
first() { await named "$1"; }

loaded() { nft list table ip pptpalg >/dev/null 2>&1; }

lan() {
	ip link add lan0 type bridge
	for i in 1 2; do ip link set p$i master lan0; done
	ip addr add 10.0.0.1/24 dev lan0 && ip link set lan0 up
}

network() {
	modprobe -a bridge veth ppp_async ppp_mppe || fail "modprobe"
	for n in c1 c2 isp server; do ip netns add $n && ip -n $n link set lo up; done
	for i in 1 2; do
		ip link add p$i type veth peer name eth0 netns c$i && ip link set p$i up
		ip -n c$i addr add 10.0.0.$((9 + i))/24 dev eth0
		ip -n c$i link set eth0 up && ip -n c$i route add default via 10.0.0.1
	done
	lan
	ip link add wan0 type veth peer name w0 netns isp && ip link set wan0 up && ip addr add 198.51.100.1/24 dev wan0
	ip -n isp link add s0 type veth peer name eth0 netns server
	ip -n isp addr add 198.51.100.254/24 dev w0 && ip -n isp addr add 203.0.113.1/24 dev s0
	ip -n isp link set w0 up && ip -n isp link set s0 up
	ip -n server addr add $server/24 dev eth0 && ip -n server link set eth0 up && ip -n server route add default via 203.0.113.1
	ip netns exec isp sysctl -qw net.ipv4.ip_forward=1
	ip route add default via 198.51.100.254
}

ppp='refuse-eap
refuse-pap
refuse-chap
refuse-mschap
require-mppe-128
nobsdcomp
nodeflate'

peers() {
	printf 'user * sesame *\n' >/etc/ppp/chap-secrets
	printf '%s\nname pptpd\nauth\nrequire-mschap-v2\nlogfile /tmp/server.log\n' "$ppp" >/tmp/server.ppp
	printf '%s\nnoauth\nnodetach\nnodefaultroute\nname user\n' "$ppp" >/tmp/client.ppp
	printf 'option /tmp/server.ppp\npidfile /tmp/pptpd.pid\nlocalip %s\nremoteip 192.168.99.10-19\n' $inner >/tmp/pptpd.conf
	printf '\007\000' >/tmp/random # of which pptp makes its Call ID
	ip netns exec server pptpd -f -c /tmp/pptpd.conf >/tmp/pptpd.log 2>&1 &
	await ip netns exec server sh -c 'grep -q ":06BB .* 0A " /proc/net/tcp'
}

dial() { # CLIENT
	ip netns exec $1 unshare -m sh -c 'mount -t tmpfs tmpfs /run && mount --bind /tmp/random /dev/random && exec pppd "$@"' sh \
		file /tmp/client.ppp pty "pptp $server --nolaunchpppd --nohostroute" >/tmp/$1.log 2>&1 &
}

# both: two calls with the same Call ID
both() {
	dial c1
	dial c2
	await pings c1
	await pings c2
	want 10.0.0.10/7 pptpalg calls
	want 10.0.0.11/7 pptpalg calls
}

pings() { ip netns exec $1 ping -q -c 1 -W 5 $inner; }

hangup() {
	pkill -x pppd
	await sh -c '! pgrep -x "pppd|pptp"'
}

settings() { # as deploy/README.md and docs/INTEGRATION.md say
	printf 'net.ipv4.ip_forward=1\nnet.netfilter.nf_conntrack_acct=1\n' >/etc/sysctl.d/pptpalg.conf
	echo nf_conntrack >/etc/modules-load.d/pptpalg.conf
	systemctl restart systemd-modules-load systemd-sysctl
	cat >/etc/nftables.conf <<-'END'
		flush ruleset
		table ip gateway {
			chain forward {
				type filter hook forward priority filter; policy drop;
				ct state established,related accept
				iifname "lan0" oifname "wan0" meta l4proto tcp ct state new accept
			}
			chain postrouting {
				type nat hook postrouting priority srcnat;
				oifname "wan0" masquerade
			}
		}
	END
	systemctl enable -q --now nftables
}

# followed: what check finds is done as it says, until it finds nothing
followed() {
	for _ in $(seq 10); do
		remedy=$(pptpalg check 2>/dev/null | sed -n 's/^ *-> //p' | head -n 1)
		[ -n "$remedy" ] || return
		step "check says: $remedy"
		sh -c "$remedy" >/dev/null 2>&1 || fail "a remedy fails"
	done
	fail "check finds something again and again"
}

broken() { # each way is named, and mended as it says
	step "GRE dropped in FORWARD"
	iptables -I FORWARD -p gre -j DROP
	glance "PROBLEM: iptables filter: -A FORWARD -p gre -j DROP drops GRE"
	first firewall-gre
	sh -c "$(pptpalg explain 10.0.0.10 | sed -n '2s/^ *→ //p')" || fail "the remedy fails"
	await pings c1
	iptables -F FORWARD
	hangup

	step "GRE dropped upstream"
	ip netns exec isp iptables -I FORWARD -i s0 -p gre -j DROP
	dial c1
	glance_at_call "PROBLEM: 1 call carries traffic one way only: no GRE arrives from $server for 10.0.0.10"
	first no_gre_from_server
	hangup
	ip netns exec isp iptables -F FORWARD

	step "port 1723 dropped"
	iptables -I FORWARD -p tcp --dport 1723 -j DROP
	dial c1
	glance "drops TCP to port 1723"
	first firewall-control
	hangup
	iptables -F FORWARD

	step "kernel's helper"
	iptables -t raw -A PREROUTING -p tcp --dport 1723 -j CT --helper pptp
	dial c1
	glance "PROBLEM: the kernel's PPTP helper is attached by iptables raw"
	first kernel_helper
	hangup
	iptables -t raw -F

	step "ruleset flushed, and loaded again by systemd"
	nft flush ruleset
	await loaded
	dial c1
	glance "PROBLEM: no rule translates addresses"
	first nat
	hangup
	systemctl restart nftables
	await loaded
	systemctl reload nftables
	await loaded

	step "rules removed"
	nft delete table ip pptpalg
	await loaded
	want "firewall rules are loaded again" journalctl -u pptpalg -o cat
	want "the daemon runs, and its rules are loaded" pptpalg check

	step "rules that the administrator loads, and that are flushed"
	pptpalg_rules none
	glance "rule sends" # who may not read rules of iptables-legacy says so in other words than who may
	dial c1
	first rules_missing
	hangup
	sh -c "$(pptpalg status 2>/dev/null | sed -n '2s/^ *-> //p')" || fail "the remedy fails"
	glance "OK: all is well"
	pptpalg_rules auto

	step "daemon stopped"
	systemctl stop pptpalg
	glance "STOPPED: no daemon is running: new calls are not edited"
	first daemon_stopped
	sh -c "$(pptpalg status 2>/dev/null | sed -n '2s/^ *-> //p')" || fail "the remedy fails"
	glance "OK: all is well"
}

# pptpalg_rules BY: from now on the daemon's rules are loaded so
pptpalg_rules() {
	sed -i '/^rules:/d' /etc/pptpalg/pptpalg.yaml
	echo "rules: $1" >>/etc/pptpalg/pptpalg.yaml
	systemctl restart pptpalg || fail "rules $1"
}

configuration() {
	step "configuration with a fault"
	cp /etc/pptpalg/pptpalg.yaml /tmp/good
	echo 'log-levle: debug' >>/etc/pptpalg/pptpalg.yaml
	want 'did you mean "log-level"?' pptpalg check-config
	want 'the daemon would not start with its configuration' pptpalg check
	systemctl reload pptpalg 2>/dev/null && fail "a wrong file is reloaded"
	cp /tmp/good /etc/pptpalg/pptpalg.yaml
	echo 'log-level: debug' >>/etc/pptpalg/pptpalg.yaml
	systemctl reload pptpalg || fail "a good file is refused"
	await sh -c 'journalctl -u pptpalg -o cat | grep -q "applied=\[log-level\]"'
}

crash() {
	step "daemon killed, then stopped"
	systemctl kill -s KILL pptpalg
	await sh -c '[ "$(systemctl show -p NRestarts --value pptpalg)" = 1 ]'
	await pptpalg calls
	systemctl kill -s STOP pptpalg
	await sh -c '[ "$(systemctl show -p NRestarts --value pptpalg)" = 2 ]'
	await pptpalg calls
	want 10.0.0.11/7 pptpalg calls
	pings c2 >/dev/null || fail "a call has not outlived its daemon"
}

content() { # check finds everything in order
	said=$(pptpalg check 2>&1) || fail "check finds problems"
	echo "$said" | grep -v "^ok" && fail "check warns"
}

# calm: the daemon has nothing to warn of yet
calm() { journalctl -u pptpalg -o cat | grep level=WARN && fail "the daemon warns"; }

# fast_path MODE: a key, a drop-in and a restart, as docs/FASTPATH.md says
fast_path() {
	sed -i '/^fastpath:/d' /etc/pptpalg/pptpalg.yaml
	echo "fastpath: $1" >>/etc/pptpalg/pptpalg.yaml
	install -D -m 644 /usr/share/pptpalg/fastpath.conf /etc/systemd/system/pptpalg.service.d/fastpath.conf
	systemctl daemon-reload
	systemctl restart pptpalg || fail "fast path $1"
}

tells() { pptpalg fastpath status --json | tr -d ' \n' | grep -q "$1"; }
attached() { tells "\"name\":\"$1\",\"wanted\":\"tc\",\"attached\":\"tc\""; }
forwarded() { pptpalg fastpath status --json | tr -d ' \n' | sed 's/.*"packets":{"tc":\([0-9]*\).*/\1/'; }

nothing_attached() {
	tc qdisc show | grep clsact && fail "filters are attached"
	ip link show | grep xdp && fail "XDP is attached"
	grep pptpalg-bpf /proc/mounts && fail "a BPF file system is mounted"
}

# carried: the fast path forwards both calls, and loses no packet
carried() {
	await attached lan0
	await attached wan0
	before=$(forwarded)
	ip netns exec c1 ping -q -c 50 -i 0.2 $inner >/tmp/c1-ping.log &
	one=$!
	ip netns exec c2 ping -q -c 50 -i 0.2 $inner >/tmp/c2-ping.log &
	two=$!
	await tells '"flows_in_force":4'
	wait $one $two
	grep -L ' 0% packet loss' /tmp/c?-ping.log | grep . && fail "packets are lost"
	[ $(($(forwarded) - before)) -gt 20 ] || fail "the fast path forwards no packets"
}

# rights: the daemon has its user's, and CAP_NET_ADMIN
rights() {
	status=/proc/$(systemctl show -p MainPID --value pptpalg)/status
	for key in CapInh CapPrm CapEff CapBnd CapAmb; do want 0000000000001000 grep $key $status; done
	want "$(id -u pptpalg)" grep Uid $status
}

fast() {
	step "fast path"
	fast_path auto
	rights
	carried
	content

	step "an interface goes, and comes back"
	daemon=$(systemctl show -p MainPID --value pptpalg)
	ip link delete lan0
	lan
	carried
	want "$daemon" systemctl show -p MainPID --value pptpalg

	step "an interface comes back, and the request for it is lost"
	systemctl stop pptpalg-fastpath.path
	ip link delete lan0
	lan
	await grep -qx lan0 /run/pptpalg/fastpath-request
	rm /run/pptpalg/fastpath-request
	systemctl start pptpalg-fastpath.path
	carried # the daemon asks again

	step "fast path without its daemon"
	systemctl kill -s KILL pptpalg
	systemctl stop pptpalg # nobody starts it again
	systemctl -q is-active pptpalg && fail "the daemon runs"
	carried
	systemctl start pptpalg
	want 10.0.0.10/7 pptpalg calls
	want 10.0.0.11/7 pptpalg calls
	carried
}

# From now on the machine starts with it, and it is there when the package goes.
fast_at_start() { fast_path auto; }

newcomer() {
	step "install"
	apt-get -qq install /old.deb >/tmp/apt.log 2>&1 || fail "apt-get install"
	want active systemctl is-active pptpalg
	want ip_forward=1 pptpalg check
	calm
	network
	followed
	glance "OK: all is well"
	settings
	await loaded # nftables.conf begins with "flush ruleset"
	content

	step "two calls with the same Call ID"
	peers
	dial c1
	dial c2
	await pings c1
	await pings c2
	want 198.51.100.1/255 pptpalg calls
	first working

	scene fast

	step "upgrade under calls, with changed settings"
	echo 'rest: 1s' >>/etc/pptpalg/pptpalg.yaml
	ip netns exec c1 ping -q -i 0.2 $inner >/tmp/ping.log &
	dpkg -i /new.deb >/tmp/dpkg.log 2>&1 </dev/null || fail "dpkg -i"
	pkill -INT -x ping
	await grep -q ' 0% packet loss' /tmp/ping.log
	want 2.0.0 pptpalg version
	want 10.0.0.11/7 pptpalg calls
	if tells '"mode":"auto"'; then
		carried
		fast_path off
		nothing_attached
		pings c1 >/dev/null || fail "a call needs the fast path"
	fi

	scene crash
	scene configuration
	scene broken
	scene fast_at_start
	end PASS reboot
}

# over PATH: from now on the daemon uses this data path
over() {
	sed -i '/^datapath:/d' /etc/pptpalg/pptpalg.yaml
	echo "datapath: $1" >>/etc/pptpalg/pptpalg.yaml
	systemctl restart pptpalg || fail "data path $1"
}

# owned RELOAD...: calls work behind a firewall that owns the rule set, before and after its
# reload, over both data paths
owned() {
	both
	"$@" || fail "reload"
	await pings c1
	await pings c2
	hangup
	both
	hangup
	over queue
	both
	hangup
	over auto
}

pieces=/usr/share/pptpalg/integrations

# firewalld loads its rules behind systemctl's back
firewalld_has() { nft list table inet firewalld | grep -q "$1"; }

reload_firewalld() {
	install -m 644 $pieces/firewalld/pptpalg-queue.xml /etc/firewalld/policies/
	systemctl reload firewalld
	await firewalld_has "l4proto gre accept"
}

behind_firewalld() {
	step "behind firewalld"
	systemctl unmask -q firewalld
	firewall-offline-cmd -q --zone=internal --add-interface=lan0
	firewall-offline-cmd -q --zone=external --add-interface=wan0
	install -m 644 $pieces/firewalld/pptpalg.xml /etc/firewalld/policies/
	systemctl start firewalld || fail "start firewalld"
	await firewalld_has "masquerade"
	await firewalld_has "dport 1723 accept"
	owned reload_firewalld
	systemctl stop firewalld
}

behind_shorewall() {
	step "behind Shorewall"
	printf 'fw firewall\nnet ipv4\nloc ipv4\n' >/etc/shorewall/zones
	printf '?FORMAT 2\nnet NET_IF physical=wan0\nloc LOC_IF physical=lan0\n' >/etc/shorewall/interfaces
	printf 'loc net ACCEPT\nnet all DROP\nall all REJECT\n' >/etc/shorewall/policy
	printf 'MASQUERADE 10.0.0.0/24 NET_IF\n' >/etc/shorewall/snat
	sed -i 's/^STARTUP_ENABLED=.*/STARTUP_ENABLED=Yes/' /etc/shorewall/shorewall.conf
	systemctl start shorewall || fail "start Shorewall"
	owned systemctl reload shorewall
	shorewall clear >/dev/null
}

purged() {
	ls -d /etc/pptpalg /etc/default/pptpalg /run/pptpalg /run/pptpalg-bpf /etc/systemd/system/multi-user.target.wants/pptpalg.service 2>/dev/null && fail "this is left"
}

old_hand() {
	step "after a restart of the machine"
	want active systemctl is-active pptpalg
	network
	peers
	both
	if tells '"mode":"auto"'; then carried; fi
	content
	hangup

	scene behind_firewalld
	scene behind_shorewall

	step "remove and purge"
	systemctl start nftables
	dial c1
	await pings c1
	apt-get -qq remove pptpalg >/tmp/apt.log 2>&1 || fail "apt-get remove"
	loaded && fail "its rules stay"
	nothing_attached
	await pings c1
	apt-get -qq purge pptpalg >/tmp/apt.log 2>&1 || fail "apt-get purge"
	purged
	end PASS poweroff
}

# page PATH: what the daemon serves there
page() { bash -c 'exec 3<>/dev/tcp/127.0.0.1/9723 && printf "GET $1 HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n" >&3 && cat <&3' page "$1"; }

# masquerading has systemd-networkd translate, for which it needs no program
masquerading() {
	printf '[Match]\nName=lan0\n[Network]\nAddress=10.0.0.1/24\nIPMasquerade=ipv4\nConfigureWithoutCarrier=yes\n' >/etc/systemd/network/lan0.network
	printf '[Match]\nName=wan0\n[Network]\nAddress=198.51.100.1/24\nGateway=198.51.100.254\n' >/etc/systemd/network/wan0.network
	systemctl start systemd-networkd || fail "systemd-networkd"
}

says() { pptpalg check | grep -q "$1"; }

# without_programs: neither iptables nor nft is there, nor needed
without_programs() {
	step "install without iptables and nft"
	apt-get -qq install /old.deb >/tmp/apt.log 2>&1 || fail "apt-get install" "$(cat /tmp/apt.log)"
	command -v iptables nft && fail "the package brings a program along"
	want active systemctl is-active pptpalg
	calm
	network
	peers
	want "apt-get install -y nftables && nft " pptpalg check
	printf 'net.netfilter.nf_conntrack_acct=1\n' >/etc/sysctl.d/pptpalg.conf
	echo nf_conntrack >/etc/modules-load.d/pptpalg.conf
	systemctl restart systemd-modules-load systemd-sysctl
	masquerading
	await says "sources are translated"
	content

	step "two calls with the same Call ID"
	both
	first working
	content
	want '"10.0.0.10' page /api/calls
	want '200 OK' page /
	want '200 OK' page /-/ready

	step "rules removed"
	pptpalg rules unload || fail "rules unload"
	await sh -c 'journalctl -u pptpalg -o cat | grep -q "firewall rules are loaded again"'
	await says "its rules are loaded"
	await pings c1
	hangup

	step "data path queue"
	over queue
	both
	content
	hangup
	over auto

	step "upgrade under calls"
	both
	dpkg -i /new.deb >/tmp/dpkg.log 2>&1 </dev/null || fail "dpkg -i"
	want 10.0.0.11/7 pptpalg calls
	pings c2 >/dev/null || fail "a call has not outlived the upgrade"
	content
	want "iptables is not installed" pptpalg check --rules iptables

	step "remove and purge"
	apt-get -qq purge pptpalg >/tmp/apt.log 2>&1 || fail "apt-get purge" "$(cat /tmp/apt.log)"
	purged
	pings c1 >/dev/null || fail "a call needs the package"
	end PASS poweroff
}

if ! command -v nft >/dev/null; then
	scene without_programs
fi
if [ -e /restarted ]; then
	old_hand
fi
touch /restarted
newcomer
