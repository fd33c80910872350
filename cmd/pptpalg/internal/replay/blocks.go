package replay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// pcapng's block types that matter here (draft-ietf-opsawg-pcapng section 4).
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

// Sizes in bytes: type and length before a block's body, and the length behind it.
const (
	blockHead  = 8
	blockTail  = 4
	blockFrame = blockHead + blockTail
	maxBlock   = largest + 1<<16 // the longest packet, with options
)

const byteOrderMagic = 0x1A2B3C4D

// blocks hands a pcapng file to gopacket one whole block at a time. gopacket's
// reader trusts every length in the file: it takes memory for packets that are not
// there, and ends quietly in the middle of a block.
type blocks struct {
	r     *bufio.Reader
	order binary.ByteOrder
	rest  []byte // of the current block, not yet handed over
	buf   []byte
	links []linkType // of the section's interfaces
	snap  uint32     // the first interface's
	err   error
}

func (b *blocks) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err == nil {
			b.err = b.block()
		}
		if b.err != nil {
			return 0, b.err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// cause returns why reading failed: the file's own fault, where gopacket met
// nothing but an end.
func (b *blocks) cause(err error) error {
	if b.err != nil {
		return b.err
	}
	if err == io.EOF {
		return errors.New("its block is too short")
	}
	return err
}

// link returns the link type of an interface of the current section.
func (b *blocks) link(i int) linkType {
	if i < 0 || i >= len(b.links) {
		return linkUnknown
	}
	return b.links[i]
}

// block reads the next block that gopacket needs. io.EOF is the end between two.
func (b *blocks) block() error {
	for {
		typ, err := b.whole()
		if err != nil {
			return err
		}
		keep, err := b.check(typ, b.buf[blockHead:len(b.buf)-blockTail])
		if err != nil {
			return err
		}
		if keep {
			b.rest = b.buf
			return nil
		}
	}
}

// whole reads a block into buf and returns its type.
func (b *blocks) whole() (uint32, error) {
	head, err := b.r.Peek(blockFrame)
	if err != nil {
		if len(head) == 0 && err == io.EOF {
			return 0, io.EOF
		}
		return 0, errShort
	}
	if err := b.section(head); err != nil {
		return 0, err
	}
	size := b.order.Uint32(head[4:])
	if size < blockFrame || size%4 != 0 || size > maxBlock {
		return 0, fmt.Errorf("a block cannot have %d bytes", size)
	}
	typ := b.order.Uint32(head)
	b.buf = append(b.buf[:0], make([]byte, size)...)
	if _, err := io.ReadFull(b.r, b.buf); err != nil {
		return 0, short(err)
	}
	if again := b.order.Uint32(b.buf[size-blockTail:]); again != size {
		return 0, fmt.Errorf("a block begins with length %d and ends with length %d", size, again)
	}
	return typ, nil
}

// section learns the byte order where a section begins; its type reads the same in
// both.
func (b *blocks) section(head []byte) error {
	if binary.BigEndian.Uint32(head) != blockSection {
		return nil
	}
	switch uint32(byteOrderMagic) {
	case binary.LittleEndian.Uint32(head[8:]):
		b.order = binary.LittleEndian
	case binary.BigEndian.Uint32(head[8:]):
		b.order = binary.BigEndian
	default:
		return errors.New("the section's byte order is unknown")
	}
	b.links = b.links[:0]
	return nil
}

// minimum is the length of each block's fixed fields, in bytes; other blocks are
// left out.
var minimum = map[uint32]int{blockSection: 16, blockInterface: 8, blockPacket: 20, blockSimple: 4, blockEnhanced: 20}

// check takes note of interfaces and sees that a packet lies within its block.
func (b *blocks) check(typ uint32, body []byte) (keep bool, err error) {
	least, known := minimum[typ]
	if !known {
		return false, nil
	}
	if len(body) < least {
		return false, fmt.Errorf("a block of type %d with %d bytes is too short", typ, len(body))
	}
	captured := uint32(0)
	switch typ {
	case blockInterface:
		b.add(body)
	case blockPacket, blockEnhanced:
		captured = b.order.Uint32(body[12:])
	case blockSimple:
		if captured = b.order.Uint32(body); b.snap != 0 {
			captured = min(captured, b.snap)
		}
	}
	if uint64(captured) > uint64(len(body)-least) {
		return false, fmt.Errorf("a packet of %d bytes does not fit into a block of %d", captured, len(body))
	}
	return true, nil
}

func (b *blocks) add(body []byte) {
	if len(b.links) == 0 {
		b.snap = b.order.Uint32(body[4:])
	}
	b.links = append(b.links, linkType(b.order.Uint16(body)))
}
