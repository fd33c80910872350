package fastpath

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"pptpalg/cmd/internal/fastpath/ports"
)

// TestStacked has the way to the server lead by an interface on top of another one: its flows
// get on the fast path, and frames are those of the kernel. "make test-vm" does so for a VLAN.
func TestStacked(t *testing.T) {
	// Where it is 1, a bridge translates what it receives before tc sees it.
	const addresses = "sysctl -q -e -w net.bridge.bridge-nf-call-iptables=0; ip addr flush dev wan; ip addr add 203.0.113.1/24 dev top; ip link set top up; iptables -w -t nat -A POSTROUTING -o top -j MASQUERADE\n"
	for _, row := range []struct {
		name, make string
	}{
		{name: "bridge", make: "ip link add top type bridge; ip link set wan master top\n" + addresses},
		{name: "bridge with an address of its own", make: "ip link add top address 02:00:00:00:00:11 type bridge; ip link set wan master top\n" + addresses},
		{name: "macvlan", make: "ip link add link wan name top type macvlan mode bridge\n" + addresses},
		{name: "macvlan, its parent is a port", make: "ip link add link wan name top type macvlan mode bridge\n" + addresses + "ip addr add 198.51.100.1/24 dev wan"},
		{name: "macvlan passthru, its parent is a port", make: "ip link add link wan name top type macvlan mode passthru\n" + addresses + "ip addr add 198.51.100.1/24 dev wan"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t)
			run(t, r.gateway, row.make)
			run(t, r.gateway, fmt.Sprintf("ip neigh replace %v lladdr %v nud permanent dev top", server, r.atServer.mac))
			var top *net.Interface
			var all []ports.Port
			do(t, r.gateway, func() (err error) {
				if top, err = net.InterfaceByName("top"); err != nil {
					return err
				}
				all, err = ports.Choose(ports.TC, nil)
				return err
			})
			p, q := r.packet(outward, 0), r.packet(inward, 0)
			q.to = top.HardwareAddr
			byKernel := [...][]byte{outward: r.through(t, outward, p), inward: r.through(t, inward, q)}
			do(t, r.gateway, func() error { _, err := Load(all, modes[1].options(r)); return err })
			defer r.gateway.Do(func() error { return Unload(r.dir) })
			r.table = r.open(t)
			r.install(t)
			for _, d := range directions {
				for end, carried := time.Now().Add(patient), uint64(0); carried < 3; carried = r.here(t, d, 0) {
					if got := r.through(t, d, []packet{p, q}[d]); !bytes.Equal(got, byKernel[d]) {
						t.Fatalf("%s: fast path\n% x\nkernel\n% x", name(d), got, byKernel[d])
					}
					if time.Now().After(end) {
						t.Fatalf("%s: not learnt: %+v", name(d), r.table.Stats())
					}
				}
			}
		})
	}
}
