package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// ErrNoLabels says that a conntrack entry has no room for labels: it is older than
// the first firewall rule about a label in its network namespace (nf_conntrack.h's
// label_words), and will never have any.
var ErrNoLabels = errors.New("conntrack entry without room for labels")

// maxLabel is the last bit of an entry's labels (XT_CONNLABEL_MAXBIT).
const maxLabel = 127

// Leave marks the entry of the TCP connection that has t as one of its tuples, in its zone:
// the connection needs no queueing any more. Other bits of its mark, and its other labels,
// stay unchanged. Without a mark or label it does nothing.
//
// The error is ErrNotFound if there is no such entry, and ErrNoLabels if it cannot have the
// label.
func (c *Conn) Leave(t calls.Tuple, zone uint16, b Bypass) error {
	if b.Mark == 0 && !b.Labelled {
		return nil
	}
	if err := c.leave(t, zone, b); err != nil {
		return fmt.Errorf("set bypass on conntrack entry of TCP %v: %w", t, err)
	}
	return nil
}

func (c *Conn) leave(t calls.Tuple, zone uint16, b Bypass) error {
	if err := checkIPv4(t.Src.Addr(), t.Dst.Addr()); err != nil {
		return err
	}
	if err := b.Validate(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.exchange(leaveRequest(tcp(t), zone, b), nil, nil)
	if errors.Is(err, unix.ENOSPC) {
		return ErrNoLabels
	}
	return err
}

// leaveRequest sets bits of the entry of which t is a tuple, and creates none.
//
// The kernel clears the bits of the mask and flips those of the value
// (ctnetlink_change_mark, replace_u32 in nf_conntrack_labels.c), so the same bits in both
// set them. It clears labels beyond the end of the attribute.
func leaveRequest(t tuple, zone uint16, b Bypass) request {
	return request{kind: msgNew, attrs: func(ae *encoder) {
		t.encode(ae, ctaTupleOrig)
		if b.Mark != 0 {
			ae.put32(ctaMark, b.Mark)
			ae.put32(ctaMarkMask, b.Mark)
		} else {
			label := labelBits(b.Label)
			ae.put(ctaLabels, label[:]...)
			ae.put(ctaLabelsMask, label[:]...)
		}
		encodeZone(ae, zone)
	}}
}

// labelBits returns an entry's labels with one of them set: a bitmap of unsigned
// longs (struct nf_conn_labels).
func labelBits(label uint8) (b [(maxLabel + 1) / 8]byte) {
	word, bit := int(label)/bits.UintSize, int(label)%bits.UintSize
	if bits.UintSize == 64 {
		binary.NativeEndian.PutUint64(b[8*word:], 1<<bit)
	} else {
		binary.NativeEndian.PutUint32(b[4*word:], 1<<bit)
	}
	return b
}
