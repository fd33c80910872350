package meter

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// dropped is what the kernel counts of packets that this network namespace has not forwarded.
type dropped struct {
	tooBig uint64 // larger than an MTU, and must not be fragmented: FragFails of proc_pid_net(5), file snmp
	astray uint64 // came by another interface than answers would take: IPReversePathFilter of file netstat
}

// readDropped reads it; what the kernel does not tell is 0.
func readDropped() dropped {
	return dropped{
		tooBig: readCounter("/proc/thread-self/net/snmp", "Ip:", "FragFails"),
		astray: readCounter("/proc/thread-self/net/netstat", "TcpExt:", "IPReversePathFilter"),
	}
}

func readCounter(file, group, name string) uint64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return field(string(text), group, name)
}

// field reads a counter: each group has a line of names, and below it one of values.
func field(text, group, name string) uint64 {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i++ {
		heads, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		at := slices.Index(heads, name)
		if heads == nil || heads[0] != group || at < 0 || at >= len(values) {
			continue
		}
		n, _ := strconv.ParseUint(values[at], 10, 64)
		return n
	}
	return 0
}

// WayTo returns the interface by which the kernel routes packets of its own to an address, and
// its MTU; "" if that is not known. No packet is sent.
func WayTo(to netip.Addr) (name string, mtu int) {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return "", 0
	}
	defer conn.Close()
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	all, _ := net.Interfaces()
	for _, i := range all {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == from {
				return i.Name, i.MTU
			}
		}
	}
	return "", 0
}
