// Package relay forwards GRE in XDP as the routing table says, without NAT: the least that a
// gateway's forwarding can cost below the kernel's IP stack.
package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// xdpPass is XDP_PASS.
const xdpPass = 2

// Offsets in an Ethernet frame with an IPv4 header without options.
const (
	offType     = 12
	offLength   = 16
	offTTL      = 22
	offProtocol = 23
	offChecksum = 24
	offSrc      = 26
	offDst      = 30
	headers     = 34
)

// The kernel's struct bpf_fib_lookup, which lies at the end of the program's stack.
const (
	fibLen      = 64
	fibFamily   = 0 - fibLen
	fibProtocol = 1 - fibLen
	fibLength   = 6 - fibLen
	fibIfindex  = 8 - fibLen
	fibSrc      = 16 - fibLen
	fibDst      = 32 - fibLen
	fibSMAC     = 52 - fibLen
	fibDMAC     = 58 - fibLen
)

// license lets the program call bpf_fib_lookup: the kernel gives it to no other.
const license = "Dual BSD/GPL"

// Relay is the program on some ports. Close it.
type Relay struct {
	program *ebpf.Program
	links   []link.Link
}

// New attaches a relay to ports of the calling thread's namespace.
func New(ports ...net.Interface) (*Relay, error) {
	r := &Relay{}
	if err := r.attach(ports); err != nil {
		return nil, fmt.Errorf("attach relay: %w", errors.Join(err, r.Close()))
	}
	return r, nil
}

func (r *Relay) attach(ports []net.Interface) (err error) {
	r.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: license, Instructions: code()})
	if err != nil {
		return err
	}
	for _, p := range ports {
		l, err := link.AttachXDP(link.XDPOptions{Program: r.program, Interface: p.Index, Flags: link.XDPDriverMode})
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		r.links = append(r.links, l)
	}
	return nil
}

// code routes, takes one from the TTL, writes the link addresses and redirects the frame.
// R6 is the context, R7 is where the frame begins.
func code() asm.Instructions {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R8, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Add.Imm(asm.R2, headers),
		asm.JGT.Reg(asm.R2, asm.R8, "pass"),
		asm.LoadMem(asm.R1, asm.R7, offType, asm.Half),
		asm.JNE.Imm(asm.R1, int32(network(0x0800)), "pass"),
		asm.LoadMem(asm.R1, asm.R7, offProtocol, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_GRE, "pass"),
		asm.LoadMem(asm.R1, asm.R7, offTTL, asm.Byte),
		asm.JLE.Imm(asm.R1, 1, "pass"),
	}
	code = append(code, route()...)
	code = append(code, hop()...)
	code = append(code, copyTo(0, fibDMAC)...)
	code = append(code, copyTo(6, fibSMAC)...)
	return append(code,
		asm.LoadMem(asm.R1, asm.R10, fibIfindex, asm.Word),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
}

// route looks the frame's way up.
func route() asm.Instructions {
	code := asm.Instructions{asm.Mov.Imm(asm.R1, 0)}
	for at := int16(-fibLen); at < 0; at += 8 {
		code = append(code, asm.StoreMem(asm.R10, at, asm.R1, asm.DWord))
	}
	return append(code,
		asm.StoreImm(asm.R10, fibFamily, unix.AF_INET, asm.Byte),
		asm.StoreImm(asm.R10, fibProtocol, unix.IPPROTO_GRE, asm.Byte),
		asm.LoadMem(asm.R1, asm.R7, offLength, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.R10, fibLength, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.R6, 12, asm.Word), // xdp_md.ingress_ifindex
		asm.StoreMem(asm.R10, fibIfindex, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, offSrc, asm.Word),
		asm.StoreMem(asm.R10, fibSrc, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, offDst, asm.Word),
		asm.StoreMem(asm.R10, fibDst, asm.R1, asm.Word),

		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -fibLen),
		asm.Mov.Imm(asm.R3, fibLen),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnFibLookup.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
	)
}

// hop takes one from the TTL, and corrects the checksum (RFC 1624).
func hop() asm.Instructions {
	fold := asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 16),
		asm.And.Imm(asm.R1, 0xffff),
		asm.Add.Reg(asm.R1, asm.R2),
	}
	code := asm.Instructions{
		asm.LoadMem(asm.R1, asm.R7, offChecksum, asm.Half),
		asm.Xor.Imm(asm.R1, 0xffff),
		asm.Add.Imm(asm.R1, int32(network(0xfeff))),
	}
	code = append(append(code, fold...), fold...)
	return append(code,
		asm.Xor.Imm(asm.R1, 0xffff),
		asm.StoreMem(asm.R7, offChecksum, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.R7, offTTL, asm.Byte),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(asm.R7, offTTL, asm.R1, asm.Byte),
	)
}

// copyTo copies a link address from the stack into the frame.
func copyTo(to, from int16) asm.Instructions {
	var code asm.Instructions
	for i := int16(0); i < 6; i += 2 {
		code = append(code, asm.LoadMem(asm.R1, asm.R10, from+i, asm.Half), asm.StoreMem(asm.R7, to+i, asm.R1, asm.Half))
	}
	return code
}

// network is a number as it is read where a frame has v.
func network(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// Close detaches it.
func (r *Relay) Close() error {
	var errs []error
	for _, l := range r.links {
		errs = append(errs, l.Close())
	}
	if r.program != nil {
		errs = append(errs, r.program.Close())
	}
	return errors.Join(errs...)
}
