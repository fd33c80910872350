package meter

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// tooBig reads how many packets this network namespace has not forwarded because they were
// larger than an MTU and must not be fragmented, 0 if the kernel does not tell: FragFails of
// proc_pid_net(5), file snmp.
func tooBig() uint64 {
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return 0
	}
	return fragFails(string(text))
}

func fragFails(snmp string) uint64 {
	lines := strings.Split(snmp, "\n")
	for i := 0; i+1 < len(lines); i++ {
		heads, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		at := slices.Index(heads, "FragFails")
		if heads == nil || heads[0] != "Ip:" || at < 0 || at >= len(values) {
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
