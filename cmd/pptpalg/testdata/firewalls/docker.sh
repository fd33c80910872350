# What dockerd 28 has in iptables for a network with bridge lan, and a container of which port
# 1723 is published. Run again, it is what dockerd does at its next start: its own chains are
# filled anew, its jumps become the first, what it appends stays.
iptables -N DOCKER-USER 2>/dev/null || true
iptables-restore --noflush <<'END'
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-INTERNAL - [0:0]
-A DOCKER -d 10.77.0.10/32 ! -i lan -o lan -p tcp -m tcp --dport 1723 -j ACCEPT
-A DOCKER ! -i lan -o lan -j DROP
-A DOCKER-BRIDGE -o lan -j DOCKER
-A DOCKER-CT -o lan -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i lan -j ACCEPT
COMMIT
*nat
:DOCKER - [0:0]
-A DOCKER ! -i lan -p tcp -m tcp --dport 1723 -j DNAT --to-destination 10.77.0.10:1723
COMMIT
END
first() { # TABLE CHAIN RULE...
	table=$1 chain=$2
	shift 2
	iptables -t "$table" -D "$chain" "$@" 2>/dev/null || true
	iptables -t "$table" -I "$chain" "$@"
}
first filter FORWARD -j DOCKER-FORWARD
first filter FORWARD -j DOCKER-USER
first nat PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
first nat OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
first nat POSTROUTING -s 10.77.0.0/24 ! -o lan -j MASQUERADE
iptables -t raw -C PREROUTING -d 10.77.0.10/32 ! -i lan -j DROP 2>/dev/null || iptables -t raw -A PREROUTING -d 10.77.0.10/32 ! -i lan -j DROP
