package replay

import (
	"container/list"
	"encoding/binary"
	"time"

	"pptpalg/alg"
	"pptpalg/alg/calls"
	"pptpalg/alg/packet"
)

// connections are the control connections that are looked for. One that has ended, or has
// not begun, is forgotten when it has been silent for a while, as conntrack does it; so its
// port outside is free again.
type connections struct {
	all    map[ends]*link
	lively list.List // those that are under way, the longest silent first
	fading list.List // the others, likewise
}

// ends is a connection's addresses and ports, as packet.Segment.Ends has them.
type ends struct {
	addresses uint64
	ports     uint32
}

// ends returns them as in a segment of the connection's initiator.
func (c *Control) ends() ends {
	src, dst := address4(c.Src.Addr()), address4(c.Dst.Addr())
	return ends{
		addresses: uint64(binary.BigEndian.Uint32(src[:]))<<32 | uint64(binary.BigEndian.Uint32(dst[:])),
		ports:     uint32(c.Src.Port())<<16 | uint32(c.Dst.Port()),
	}
}

// age is what tells when a connection is forgotten.
type age struct {
	key      ends
	last     time.Time // when it was heard
	answered bool      // more than a SYN was seen of it
	ended    bool      // both FINs or a RST were
	at       *list.Element
	in       *list.List
}

const (
	silence    = 2 * time.Minute        // after which a connection that is not under way is forgotten
	mostFading = 4096                   // of those
	mostLively = alg.DefaultConnections // of those under way: a further one takes the place of the longest silent
)

func newConnections() *connections { return &connections{all: make(map[ends]*link)} }

// find returns the connection of a segment and who of it sends, or nil.
func (c *connections) find(seg packet.Segment) (*link, calls.Side) {
	addresses, ports := seg.Ends()
	k := ends{addresses, ports}
	if l := c.all[k]; l != nil {
		return l, calls.Initiator
	}
	return c.all[k.turned()], calls.Responder
}

func (k ends) turned() ends {
	return ends{k.addresses>>32 | k.addresses<<32, k.ports>>16 | k.ports<<16}
}

// add enters a connection, and returns those that give way.
func (c *connections) add(l *link, now time.Time) (gone []*link) {
	l.key = l.Control.ends()
	l.last = now
	c.all[l.key] = l
	c.enlist(l)
	if c.lively.Len() > mostLively {
		gone = c.drop(&c.lively, gone)
	}
	if c.fading.Len() > mostFading {
		gone = c.drop(&c.fading, gone)
	}
	return gone
}

// heard records a segment of a connection.
func (c *connections) heard(l *link, now time.Time) {
	l.last = now
	if l.in == c.list(l) {
		l.in.MoveToBack(l.at)
		return
	}
	l.in.Remove(l.at)
	c.enlist(l)
}

func (c *connections) enlist(l *link) {
	l.in = c.list(l)
	l.at = l.in.PushBack(l)
}

// list returns the list that a connection belongs to.
func (c *connections) list(l *link) *list.List {
	if l.answered && !l.ended {
		return &c.lively
	}
	return &c.fading
}

// expire forgets what has been silent for too long, and returns it.
func (c *connections) expire(now time.Time) (gone []*link) {
	for first := c.fading.Front(); first != nil && now.Sub(first.Value.(*link).last) > silence; first = c.fading.Front() {
		gone = c.drop(&c.fading, gone)
	}
	return gone
}

// drop forgets the first of a list.
func (c *connections) drop(from *list.List, gone []*link) []*link {
	l := from.Remove(from.Front()).(*link)
	delete(c.all, l.key)
	return append(gone, l)
}
