package fastpath

import (
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"pptpalg/cmd/internal/fastpath/ports"
)

// Offsets in struct __sk_buff.
const (
	skbMark     = 8
	skbPriority = 32
)

// program attaches a program of somebody else's to an interface of the gateway.
func (r *rig) program(t *testing.T, index int, at ebpf.AttachType, all asm.Instructions) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: all})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	do(t, r.gateway, func() error {
		l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: index, Attach: at})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
}

// TestPriority: with whatever mark and priority a packet comes, it leaves with those that the
// kernel gives it.
func TestPriority(t *testing.T) {
	for _, row := range []struct {
		name, rules    string
		mark, priority uint32
	}{
		{"none", "iptables -w -t mangle -A PREROUTING -p gre -j MARK --set-mark 0", 0, 0},
		{"others", "iptables -w -t mangle -A PREROUTING -p gre -j MARK --set-mark 9; iptables -w -t mangle -A POSTROUTING -p gre -j CLASSIFY --set-class 1:20", 9, 0x10020},
	} {
		for _, m := range modes[1:] {
			t.Run(row.name+", "+m.name, func(t *testing.T) {
				r := newRig(t)
				run(t, r.gateway, `ip link add br0 address `+r.lan.HardwareAddr.String()+` type bridge
					ip addr flush dev lan; ip link set lan master br0; ip addr add 10.77.0.1/24 dev br0; ip link set br0 up
					`+row.rules)
				for _, a := range clients {
					run(t, r.gateway, "ip neigh replace "+a.String()+" lladdr "+r.atClient.mac.String()+" nud permanent dev br0")
				}
				var bridge *net.Interface
				do(t, r.gateway, func() (err error) { bridge, err = net.InterfaceByName("br0"); return err })
				r.program(t, r.lan.Index, ebpf.AttachTCXIngress, asm.Instructions{
					asm.Mov.Imm(asm.R0, 0x10010), asm.StoreMem(asm.R1, skbPriority, asm.R0, asm.Word),
					asm.Mov.Imm(asm.R0, 7), asm.StoreMem(asm.R1, skbMark, asm.R0, asm.Word),
					asm.Mov.Imm(asm.R0, -1), asm.Return(),
				})
				r.program(t, r.wan.Index, ebpf.AttachTCXEgress, asm.Instructions{ // others are dropped
					asm.Mov.Imm(asm.R0, -1),
					asm.LoadMem(asm.R2, asm.R1, skbMark, asm.Word), asm.JNE.Imm(asm.R2, int32(row.mark), "drop"),
					asm.LoadMem(asm.R2, asm.R1, skbPriority, asm.Word), asm.JNE.Imm(asm.R2, int32(row.priority), "drop"),
					asm.Return(),
					asm.Mov.Imm(asm.R0, 2).WithSymbol("drop"), asm.Return(),
				})
				all := []ports.Port{{Index: bridge.Index, Name: bridge.Name, MAC: bridge.HardwareAddr, TC: true}, r.ports(m)[1]}
				do(t, r.gateway, func() error { _, err := Load(all, m.options(r)); return err })
				defer r.gateway.Do(func() error { return Unload(r.dir) })
				r.table = r.open(t)
				r.install(t)
				for end := time.Now().Add(patient); r.here(t, outward, 0) < 3; {
					r.through(t, outward, r.packet(outward, 0)) // fails if nothing arrives
					if time.Now().After(end) {
						t.Fatalf("not learnt: %+v", r.table.Stats())
					}
				}
			})
		}
	}
}
