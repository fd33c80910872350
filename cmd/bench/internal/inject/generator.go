package inject

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES.
const liveFrames = 1 << 1

// XDP's verdicts.
const (
	xdpDrop = 1
	xdpPass = 2
)

// Stream is what a generator sends.
type Stream struct {
	Packets   []Packet // one for each call
	Size      int      // of a packet with its IP header, bytes
	Interface int      // index of the veth that sends, in the namespace of the injector's thread
	From, To  net.HardwareAddr
	InOrder   bool // one packet after the other, instead of any at random
}

// Generator sends packets of a stream. Close it.
type Generator struct {
	calls, pairs, cursor *ebpf.Map
	program              *ebpf.Program
	frame                []byte
}

// NewGenerator loads the program for a stream.
func NewGenerator(s Stream) (*Generator, error) {
	if len(s.Packets) == 0 || s.Size < MinSize {
		return nil, fmt.Errorf("load generator: %d packets of %d bytes", len(s.Packets), s.Size)
	}
	g := &Generator{frame: frame(s.Packets[0], s.Size)}
	if err := g.load(s); err != nil {
		return nil, fmt.Errorf("load generator: %w", errors.Join(err, g.Close()))
	}
	return g, nil
}

func (g *Generator) load(s Stream) (err error) {
	calls, pairs, err := newRows(s)
	if err != nil {
		return err
	}
	if g.calls, err = arrayOf(calls); err != nil {
		return err
	}
	if g.pairs, err = arrayOf(pairs...); err != nil {
		return err
	}
	g.cursor, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	g.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: g.code(s)})
	return err
}

// arrayOf returns a map of values of one size.
func arrayOf[V ~[]byte](values ...V) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(values[0])), MaxEntries: uint32(len(values))})
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		if err := m.Put(uint32(i), []byte(v)); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// code picks a packet, writes it into the frame and redirects the frame.
// R7 is where the frame begins, R9 the call's row; below R10 are the packet's place and that of its pair.
func (g *Generator) code(s Stream) asm.Instructions {
	place := asm.LoadMem(asm.R1, asm.R10, -4, asm.Word)
	code := asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R8, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Add.Imm(asm.R2, headers),
		asm.JGT.Reg(asm.R2, asm.R8, "drop"),
	}
	code = append(code, g.pick(s)...)
	code = append(code,
		asm.JGE.Imm(asm.R0, int32(len(s.Packets)), "drop"), // the verifier wants to see a bound
		asm.StoreMem(asm.R10, -4, asm.R0, asm.Word),
		asm.LoadMapValue(asm.R9, g.calls.FD(), 0),
		asm.LSh.Imm(asm.R0, 2), // callRow
		asm.Add.Reg(asm.R9, asm.R0),
		asm.LoadMem(asm.R1, asm.R9, 0, asm.Half),
		asm.StoreMem(asm.R10, -8, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, g.pairs.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -8),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"),
	)
	code = append(code, write(0, asm.Word, leastFirst(s.To[0:4])), write(4, asm.Half, leastFirst(s.To[4:6])),
		write(6, asm.Half, leastFirst(s.From[0:2])), write(8, asm.Word, leastFirst(s.From[2:6])),
		write(offTTL, asm.Byte, ttl))
	code = append(code, move(asm.R0, 0, offSrc, asm.Word)...)
	code = append(code, move(asm.R0, 4, offDst, asm.Word)...)
	code = append(code, move(asm.R0, 8, offChecksum, asm.Half)...)
	code = append(code, move(asm.R9, 2, offKey, asm.Half)...)
	return append(code,
		place,
		asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.StoreMem(asm.R7, offSeq, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, int32(s.Interface)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"),
		asm.Return(),
	)
}

// pick leaves the place of the next packet in R0.
func (g *Generator) pick(s Stream) asm.Instructions {
	n := int32(len(s.Packets))
	if !s.InOrder {
		return asm.Instructions{asm.FnGetPrandomU32.Call(), asm.Mod.Imm32(asm.R0, n)}
	}
	return asm.Instructions{
		asm.LoadMapValue(asm.R1, g.cursor.FD(), 0),
		asm.LoadMem(asm.R0, asm.R1, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R1, 0, asm.R2, asm.Word),
		asm.Mod.Imm32(asm.R0, n),
	}
}

func write(at int16, size asm.Size, value int64) asm.Instruction {
	return asm.StoreImm(asm.R7, at, value, size)
}

// move copies from a row to the frame.
func move(row asm.Register, from, to int16, size asm.Size) asm.Instructions {
	return asm.Instructions{asm.LoadMem(asm.R1, row, from, size), asm.StoreMem(asm.R7, to, asm.R1, size)}
}

// leastFirst reads bytes as the integer that is stored as these bytes.
func leastFirst(b []byte) int64 {
	if len(b) == 2 {
		return int64(binary.NativeEndian.Uint16(b))
	}
	return int64(int32(binary.NativeEndian.Uint32(b)))
}

// loopback is the index of lo in every namespace.
const loopback = 1

// Arm makes Send cheap until what it returns is closed: it attaches the program to
// lo of the calling thread's namespace, where no packet is. The kernel calls XDP
// programs through a piece of code that it patches for each that comes into use
// (bpf_prog_change_xdp, of each BPF_PROG_TEST_RUN too), which takes half a
// millisecond of CPU time and 20 ms of waiting. A program that is attached is in use
// already. One generator can be armed in a namespace at a time.
func (g *Generator) Arm() (io.Closer, error) {
	l, err := link.AttachXDP(link.XDPOptions{Program: g.program, Interface: loopback, Flags: link.XDPGenericMode})
	if err != nil {
		return nil, fmt.Errorf("arm generator: %w", err)
	}
	return l, nil
}

// Send sends n packets, from the calling thread's namespace, and returns when the
// kernel has taken the last. Those of a fast path have arrived by then.
func (g *Generator) Send(n int) error {
	_, err := g.program.Run(&ebpf.RunOptions{Data: g.frame, Repeat: uint32(n), Flags: liveFrames})
	if err != nil {
		return fmt.Errorf("send %d packets: %w", n, err)
	}
	return nil
}

// Close unloads the program.
func (g *Generator) Close() error {
	var errs []error
	if g.program != nil {
		errs = append(errs, g.program.Close())
	}
	for _, m := range []*ebpf.Map{g.calls, g.pairs, g.cursor} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
