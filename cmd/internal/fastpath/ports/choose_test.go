package ports

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	attached "github.com/cilium/ebpf/link"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/cmd/internal/netns"
)

const twoPairs = `
ip link set lo up
ip link add lan type veth peer name client
ip link add wan type veth peer name server
for i in lan wan client server; do ip link set $i up; done
ip address add 10.0.0.1/24 dev lan
ip address add 192.0.2.1/24 dev wan
`

// gro has both peers poll, without which veth does not send what XDP redirects.
func gro(t *testing.T, p *netns.Place, on uint32, names ...string) {
	t.Helper()
	do(t, p, func() error {
		for _, name := range names {
			if err := ethtool(name, setGRO, on); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestChooseVeth(t *testing.T) {
	p := place(t, twoPairs)
	const lost = "the peer has neither GRO nor a program"
	got := chosen(t, p, Auto, "lan", "wan")
	want(t, got, "lan", "tc", lost)
	want(t, got, "wan", "tc", lost)
	if mac := got["lan"].MAC; len(mac) != 6 || mac[0] == 0 && mac[1] == 0 && mac[2] == 0 {
		t.Errorf("lan has MAC %v", mac)
	}

	gro(t, p, 1, "client")
	want(t, chosen(t, p, Auto, "lan", "wan"), "lan", "tc", "no other interface can do it")

	gro(t, p, 1, "server")
	got = chosen(t, p, Auto, "lan", "wan")
	want(t, got, "lan", "xdp", "takes and sends")
	want(t, got, "wan", "xdp", "takes and sends")
	want(t, chosen(t, p, TC, "lan"), "lan", "tc", "requested")
	if got := chosen(t, p, Off); len(got) != 0 {
		t.Errorf("mode off has ports: %v", got)
	}

	// All of them: the peers' peers do not poll, and the loopback interface is told of.
	got = chosen(t, p, Auto)
	want(t, got, "lo", "", "loopback")
	want(t, got, "lan", "xdp tc", "takes and sends")
	want(t, got, "client", "tc", lost)

	// A missing interface and one that is down.
	run(t, p, "ip link set wan down")
	got = chosen(t, p, XDP, "lan", "wan", "ppp7")
	want(t, got, "lan", "xdp", "takes and sends")
	want(t, got, "wan", "", "down")
	want(t, got, "ppp7", "", "no such interface")
}

// TestChooseProgramOfPeer: a program on the peer does as GRO does.
func TestChooseProgramOfPeer(t *testing.T) {
	p := place(t, twoPairs)
	attachXDP(t, p, "client", "another")
	got := chosen(t, p, XDP, "lan", "client", "wan")
	want(t, got, "lan", "xdp", "takes and sends")
	want(t, got, "client", "", "the peer has neither")
	want(t, got, "wan", "", "the peer has neither")
	gro(t, p, 1, "lan")
	want(t, chosen(t, p, XDP, "client"), "client", "", "another program")
}

// TestChooseTaken: the place is another's, or the fast path's own.
func TestChooseTaken(t *testing.T) {
	p := place(t, twoPairs)
	gro(t, p, 1, "client", "server")
	attachXDP(t, p, "lan", "another")
	attachXDP(t, p, "wan", ProgramPrefix+"_x")
	got := chosen(t, p, XDP, "lan", "wan")
	want(t, got, "lan", "", "another program")
	want(t, got, "wan", "xdp", "takes and sends")
}

// TestChooseQdisc: XDP skips no qdisc that was put there to shape.
func TestChooseQdisc(t *testing.T) {
	p := place(t, twoPairs)
	gro(t, p, 1, "client", "server")
	run(t, p, "tc qdisc add dev wan root tbf rate 1mbit burst 1540 latency 50ms")
	got := chosen(t, p, Auto, "lan", "wan")
	want(t, got, "wan", "tc", "skip the qdisc tbf")
	want(t, got, "lan", "tc", "no other interface")
	run(t, p, "tc qdisc replace dev wan root handle 1: htb default 1")
	want(t, chosen(t, p, XDP, "wan"), "wan", "", "skip the qdisc htb")
	run(t, p, "tc qdisc replace dev wan root pfifo_fast")
	want(t, chosen(t, p, XDP, "wan"), "wan", "xdp", "")
	// What lies under mq counts as well.
	run(t, p, `ip link add many numtxqueues 2 numrxqueues 2 type veth peer name few
ip link set many up; ip link set few up
tc qdisc add dev many root handle 7: mq`)
	gro(t, p, 1, "few")
	want(t, chosen(t, p, XDP, "many"), "many", "xdp", "")
	run(t, p, "tc qdisc add dev many parent 7:2 tbf rate 1mbit burst 1540 latency 50ms")
	want(t, chosen(t, p, XDP, "many"), "many", "", "skip the qdisc tbf")
}

// TestChooseFilters: XDP skips no filter of others, by clsact, by ingress and by tcx.
func TestChooseFilters(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, p *netns.Place)
		how  string
		why  string
	}{
		{"empty clsact", script("tc qdisc add dev wan clsact"), "xdp", ""},
		{"clsact ingress", script("tc qdisc add dev wan clsact; tc filter add dev wan ingress " + aFilter), "", "on ingress"},
		{"clsact egress", script("tc qdisc add dev wan clsact; tc filter add dev wan egress " + aFilter), "", "on egress"},
		{"ingress", script("tc qdisc add dev wan ingress; tc filter add dev wan parent ffff: " + aFilter), "", "on ingress"},
		{"tcx ingress", tcx(ebpf.AttachTCXIngress, "another"), "", "on ingress"},
		{"tcx egress", tcx(ebpf.AttachTCXEgress, "another"), "", "on egress"},
		{"our tcx", tcx(ebpf.AttachTCXEgress, ProgramPrefix), "xdp", ""},
		{"another's filter of kind bpf", clsact("another"), "", "on egress"},
		{"our filter", clsact(ProgramPrefix), "xdp", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := place(t, twoPairs)
			gro(t, p, 1, "client", "server")
			tt.make(t, p)
			want(t, chosen(t, p, XDP, "lan", "wan"), "wan", tt.how, tt.why)
			if tt.how == "" {
				want(t, chosen(t, p, Auto, "lan", "wan"), "wan", "tc", tt.why)
			}
		})
	}
}

func script(s string) func(*testing.T, *netns.Place) {
	return func(t *testing.T, p *netns.Place) { run(t, p, s) }
}

// TestChooseStacked: bridges, tunnels and what has no link header.
func TestChooseStacked(t *testing.T) {
	p := place(t, twoPairs+`
ip link add br0 type bridge
ip link set lan master br0; ip address flush dev lan; ip address add 10.0.0.1/24 dev br0
ip link add mac0 link server type macvlan mode private; ip address add 10.9.0.1/24 dev mac0
ip link add vx0 type vxlan id 4 dstport 4789 dev wan
ip link add ifb7 type ifb
ip tuntap add dev tun0 mode tun
ip tuntap add dev tap0 mode tap
for i in br0 mac0 vx0 ifb7 tun0 tap0; do ip link set $i up; done`)
	gro(t, p, 1, "client", "server", "wan")
	got := chosen(t, p, Auto)
	want(t, got, "br0", "tc", "frames do not arrive on a bridge itself")
	want(t, got, "lan", "", "a port of bridge br0")
	want(t, got, "server", "", "addresses are on mac0")
	want(t, got, "mac0", "tc", "on a macvlan itself")
	want(t, got, "vx0", "", "kind vxlan are left")
	want(t, got, "ifb7", "", "kind ifb are left")
	want(t, got, "tun0", "tc", "no link header")
	if got["tun0"].MAC != nil || got["tap0"].MAC == nil || got["br0"].MAC == nil {
		t.Errorf("MACs: %v of tun0, %v of tap0, %v of br0", got["tun0"].MAC, got["tap0"].MAC, got["br0"].MAC)
	}
	want(t, got, "wan", "xdp tc", "takes and sends")

	// With an address of its own it is a port, but not with XDP.
	run(t, p, "ip address add 10.8.0.1/24 dev server")
	want(t, chosen(t, p, Auto), "server", "tc", "macvlan mac0 takes frames")
}

// TestChooseUnderVLAN: cards take tags off, if they are not told not to. Which card has a VLAN
// on it is not asked of the kernel here.
func TestChooseUnderVLAN(t *testing.T) {
	p := place(t, twoPairs)
	for _, on := range []bool{true, false} {
		do(t, p, func() error {
			value := uint32(0)
			if on {
				value = rxVLAN
			}
			if err := ethtool("wan", setFlag, value); err != nil {
				return err
			}
			all, err := ask()
			if err != nil {
				return err
			}
			for _, l := range all.links {
				if l.name != "wan" {
					continue
				}
				if got, err := askUntags(l.index); got != on || err != nil {
					t.Errorf("rx-vlan-offload %v: got %v, %v", on, got, err)
				}
			}
			return nil
		})
	}
}

func TestChooseMany(t *testing.T) {
	p := place(t, `for i in $(seq 10); do ip link add a$i type veth peer name b$i; ip link set a$i up; ip link set b$i up; done`)
	all := chosen(t, p, Auto)
	n := 0
	for _, port := range all {
		if port.Used() {
			n++
		}
	}
	if n != Most || len(all) != 21 {
		t.Errorf("%d of %d ports are used, want %d of 21", n, len(all), Most)
	}
	want(t, all, "a10", "", "already has 16 interfaces")
	want(t, chosen(t, p, Auto, "a10"), "a10", "tc", "")
}

func TestSends(t *testing.T) {
	p := place(t, twoPairs)
	for _, on := range []uint32{0, 1, 0} {
		gro(t, p, on, "client")
		do(t, p, func() error {
			all, err := ask()
			if err != nil {
				return err
			}
			for _, l := range all.links {
				if l.name != "lan" {
					continue
				}
				if got, err := Sends(l.index); got != (on == 1) || err != nil {
					t.Errorf("peer's GRO %d: got %v, %v", on, got, err)
				}
			}
			return nil
		})
	}
}

// attachXDP attaches a program that passes all, with a name.
func attachXDP(t *testing.T, p *netns.Place, name, program string) {
	t.Helper()
	attach(t, p, name, func(index int) (attached.Link, error) {
		prog, err := ebpf.NewProgram(passing(ebpf.XDP, program, 2))
		if err != nil {
			return nil, err
		}
		defer prog.Close()
		return attached.AttachXDP(attached.XDPOptions{Program: prog, Interface: index, Flags: attached.XDPDriverMode})
	})
}

func tcx(where ebpf.AttachType, program string) func(*testing.T, *netns.Place) {
	return func(t *testing.T, p *netns.Place) {
		t.Helper()
		attach(t, p, "wan", func(index int) (attached.Link, error) {
			prog, err := ebpf.NewProgram(passing(ebpf.SchedCLS, program, 0))
			if err != nil {
				return nil, err
			}
			defer prog.Close()
			return attached.AttachTCX(attached.TCXOptions{Program: prog, Interface: index, Attach: where})
		})
	}
}

// clsact attaches a filter of kind bpf with a name, whose program has none.
func clsact(name string) func(*testing.T, *netns.Place) {
	return func(t *testing.T, p *netns.Place) {
		t.Helper()
		run(t, p, "tc qdisc add dev wan clsact")
		do(t, p, func() error {
			prog, err := ebpf.NewProgram(passing(ebpf.SchedCLS, "", 0))
			if err != nil {
				return err
			}
			defer prog.Close()
			c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
			if err != nil {
				return err
			}
			defer c.Close()
			all, err := askLinks(c)
			if err != nil {
				return err
			}
			wan := slices.IndexFunc(all, func(l link) bool { return l.name == "wan" })
			e := netlink.NewAttributeEncoder()
			e.String(unix.TCA_KIND, "bpf")
			e.Nested(unix.TCA_OPTIONS, func(e *netlink.AttributeEncoder) error {
				e.Uint32(6, uint32(prog.FD())) // TCA_BPF_FD
				e.String(tcaBPFName, name)
				e.Uint32(8, 1) // TCA_BPF_FLAGS: TCA_BPF_FLAG_ACT_DIRECT
				return nil
			})
			attrs, err := e.Encode()
			if err != nil {
				return err
			}
			b := make([]byte, tcmsgLen)
			binary.NativeEndian.PutUint32(b[4:], uint32(all[wan].index))
			binary.NativeEndian.PutUint32(b[12:], clsactEgress)
			binary.NativeEndian.PutUint32(b[16:], 1<<16|uint32(htons(unix.ETH_P_IP)))
			_, err = c.Execute(netlink.Message{
				Header: netlink.Header{Type: unix.RTM_NEWTFILTER, Flags: netlink.Request | netlink.Acknowledge | netlink.Create},
				Data:   append(b, attrs...),
			})
			return err
		})
	}
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

func passing(typ ebpf.ProgramType, name string, verdict int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Name: name, Type: typ, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}}
}

func attach(t *testing.T, p *netns.Place, name string, with func(index int) (attached.Link, error)) {
	t.Helper()
	do(t, p, func() error {
		f, err := ask()
		if err != nil {
			return err
		}
		for _, l := range f.links {
			if l.name == name {
				a, err := with(l.index)
				if err == nil {
					t.Cleanup(func() { a.Close() })
				}
				return err
			}
		}
		t.Fatalf("no interface %s", name)
		return nil
	})
}
