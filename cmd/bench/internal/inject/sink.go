package inject

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// Sink counts the GRE packets that reach a veth, and drops them. Everything else
// passes it. Close it.
type Sink struct {
	count, show, shown *ebpf.Map
	program            *ebpf.Program
	link               link.Link
	reader             *ringbuf.Reader
}

// NewSink attaches a sink to an interface of the calling thread's namespace.
func NewSink(iface int) (*Sink, error) {
	s := &Sink{}
	if err := s.load(iface); err != nil {
		return nil, fmt.Errorf("attach sink: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *Sink) load(iface int) (err error) {
	for m, spec := range map[**ebpf.Map]ebpf.MapSpec{
		&s.count: {Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1},
		&s.show:  {Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1},
		&s.shown: {Type: ebpf.RingBuf, MaxEntries: 1 << 20},
	} {
		if *m, err = ebpf.NewMap(&spec); err != nil {
			return err
		}
	}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: s.code()})
	if err != nil {
		return err
	}
	if s.reader, err = ringbuf.NewReader(s.shown); err != nil {
		return err
	}
	s.link, err = link.AttachXDP(link.XDPOptions{Program: s.program, Interface: iface, Flags: link.XDPDriverMode})
	return err
}

func (s *Sink) code() asm.Instructions {
	code := s.counting()
	code = append(code, copyToStack()...)
	return append(code,
		asm.LoadMapPtr(asm.R1, s.shown.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -stack),
		asm.Mov.Imm(asm.R3, captured),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),

		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
}

// stack is the room for a captured packet on the program's stack: the kernel lets no
// ring buffer be written from a packet itself.
const stack = (captured + 7) / 8 * 8

// copyToStack copies the captured part of the frame at R7.
func copyToStack() asm.Instructions {
	var code asm.Instructions
	at := int16(0)
	for _, size := range []asm.Size{asm.DWord, asm.Word, asm.Half, asm.Byte} {
		for ; int(at)+size.Sizeof() <= captured; at += int16(size.Sizeof()) {
			code = append(code, asm.LoadMem(asm.R1, asm.R7, at, size), asm.StoreMem(asm.R10, at-stack, asm.R1, size))
		}
	}
	return code
}

// counting counts GRE, and goes on only if packets are to be shown.
func (s *Sink) counting() asm.Instructions {
	ipv4 := int32(binary.NativeEndian.Uint16([]byte{0x08, 0x00}))
	return asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R8, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Add.Imm(asm.R2, captured),
		asm.JGT.Reg(asm.R2, asm.R8, "pass"),
		asm.LoadMem(asm.R1, asm.R7, offType, asm.Half),
		asm.JNE.Imm(asm.R1, ipv4, "pass"),
		asm.LoadMem(asm.R1, asm.R7, offProtocol, asm.Byte),
		asm.JNE.Imm(asm.R1, 47, "pass"),

		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, s.count.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),

		asm.LoadMapValue(asm.R1, s.show.FD(), 0),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "drop"),
	}
}

// Count returns how many GRE packets have arrived.
func (s *Sink) Count() (uint64, error) {
	var each []uint64
	if err := s.count.Lookup(uint32(0), &each); err != nil {
		return 0, fmt.Errorf("count arrived packets: %w", err)
	}
	var n uint64
	for _, c := range each {
		n += c
	}
	return n, nil
}

// Show has the sink keep packets for Next, or keep them no longer.
func (s *Sink) Show(on bool) error {
	var value uint32
	if on {
		value = 1
	}
	if err := s.show.Put(uint32(0), value); err != nil {
		return fmt.Errorf("show arrived packets: %w", err)
	}
	return nil
}

// Next returns the oldest packet that was kept. The error wraps
// os.ErrDeadlineExceeded where none has come in time; any other tells what is wrong
// with the packet.
func (s *Sink) Next(within time.Duration) (Arrived, error) {
	s.reader.SetDeadline(time.Now().Add(within))
	record, err := s.reader.Read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Arrived{}, fmt.Errorf("wait for a packet: %w", err)
	}
	if err != nil {
		return Arrived{}, fmt.Errorf("read arrived packet: %w", err)
	}
	return parse(record.RawSample)
}

// Close detaches the sink.
func (s *Sink) Close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.reader != nil {
		errs = append(errs, s.reader.Close())
	}
	if s.program != nil {
		errs = append(errs, s.program.Close())
	}
	for _, m := range []*ebpf.Map{s.count, s.show, s.shown} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
