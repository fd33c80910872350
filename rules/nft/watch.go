package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/rules/internal/follow"
)

// Watch calls changed when somebody may have changed nftables rules, until ctx is done. The
// kernel tells of every change, those of iptables-nft too.
func (b *Backend) Watch(ctx context.Context, changed func()) error {
	return follow.NFTables(ctx, b.NetNS, changed)
}

// Queues reports whether any rule, of whatever table and family, sends packets to a queue: by
// nft, or by iptables-nft.
func Queues(number uint16) (bool, error) { return new(Backend).queues(number) }

func (b *Backend) queues(number uint16) (bool, error) {
	if _, err := b.tables(); errors.Is(err, ErrUnsupported) {
		return false, nil
	}
	listed, err := b.listRules(unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return false, fmt.Errorf("list nftables rules: %w", err)
	}
	return slices.ContainsFunc(listed, func(m netlink.Message) bool { return queuesTo(m.Data, number) }), nil
}

// queuesTo reports whether a listed rule sends packets to a queue.
func queuesTo(data []byte, number uint16) bool {
	if len(data) < 4 {
		return false
	}
	found := false
	each(data[4:], func(typ uint16, list []byte) {
		if typ != unix.NFTA_RULE_EXPRESSIONS {
			return
		}
		each(list, func(_ uint16, e []byte) {
			name := string(find(e, unix.NFTA_EXPR_NAME))
			body := find(e, unix.NFTA_EXPR_DATA)
			found = found || name == "queue\x00" && toQueue(body, number) || name == "target\x00" && toTarget(body, number)
		})
	})
	return found
}

// toQueue looks at nft's own statement. Of a queue that a map chooses it knows nothing, and
// says yes.
func toQueue(body []byte, number uint16) bool {
	first := find(body, unix.NFTA_QUEUE_NUM)
	if len(first) < 2 {
		return true
	}
	total := uint16(1)
	if b := find(body, unix.NFTA_QUEUE_TOTAL); len(b) >= 2 {
		total = binary.BigEndian.Uint16(b)
	}
	return within(number, binary.BigEndian.Uint16(first), total)
}

// toTarget looks at iptables' target, see linux/netfilter/xt_NFQUEUE.h.
func toTarget(body []byte, number uint16) bool {
	info := find(body, unix.NFTA_TARGET_INFO)
	if string(find(body, unix.NFTA_TARGET_NAME)) != "NFQUEUE\x00" || len(info) < 4 {
		return false
	}
	total := uint16(1)
	if revision := find(body, unix.NFTA_TARGET_REV); len(revision) == 4 && binary.BigEndian.Uint32(revision) > 0 {
		total = binary.NativeEndian.Uint16(info[2:])
	}
	return within(number, binary.NativeEndian.Uint16(info), total)
}

func within(number, first, total uint16) bool {
	return number >= first && int(number) < int(first)+int(total)
}

// each calls f with each attribute of a list. What is no list has none.
func each(list []byte, f func(typ uint16, data []byte)) {
	attrs, err := netlink.UnmarshalAttributes(list)
	if err != nil {
		return
	}
	for _, a := range attrs {
		f(a.Type&^(netlink.Nested|netlink.NetByteOrder), a.Data)
	}
}

// find returns the data of an attribute of a list, nil if it has none.
func find(list []byte, wanted uint16) (found []byte) {
	each(list, func(typ uint16, data []byte) {
		if typ == wanted {
			found = data
		}
	})
	return found
}
