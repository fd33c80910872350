package conntrack

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
)

// Timeout is the life of a flow's entry in seconds: 10 days, whatever packets come. A fixed
// timeout cannot be changed (EPERM), so it is long, and the entry is deleted when its call
// ends. Create does not restart it either: a call that lasts longer loses its entry, and
// gets it again with the next Create. The kernel counts jiffies in 32 bits and caps the
// timeout at some 24 days if HZ is 1000.
const Timeout = 10 * 24 * 60 * 60

// Create creates a flow's entry. It deletes what is in its way: a former call's entry, or
// one that the kernel created for a packet that came too early. If this flow already has an
// entry, that stays, and Create sets its mark if it differs: in the instant between the end
// of an entry and its successor, a packet would pass untranslated and leave an entry of its
// own.
//
// A tunnel's entry stays too. A flow to Call ID 0 has the tuple of such a tunnel: if the
// tunnel's entry translates as the flow's entry would, the flow needs none; if not, the
// error is ErrTaken.
func (c *Conn) Create(f calls.Flow) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.create(f, nil)
}

// create is Create after a first attempt that may have got an answer already.
func (c *Conn) create(f calls.Flow, answer error) error {
	err := checkFlow(f)
	if err == nil {
		err = c.insist(f, answer)
	}
	if err != nil {
		return fmt.Errorf("create GRE entry for %v: %w", f, err)
	}
	return nil
}

// insist tries more than once, because between the delete and the next try a packet may
// create another entry in the way, and because flows that leave alike may have the zones
// that are tried first. A nil answer means that there is none yet.
func (c *Conn) insist(f calls.Flow, answer error) error {
	e := c.entryOf(f)
	for taken := range tries {
		if answer == nil {
			answer = c.exchange(createRequest(e), nil, nil)
		}
		switch {
		case errors.Is(answer, unix.EOPNOTSUPP) && e.reply.zone != 0:
			c.noZones = true
			e = c.entryOf(f)
		case !errors.Is(answer, unix.EEXIST):
			return answer
		default:
			stands, shared, err := c.clear(f, &e)
			if stands || err != nil {
				return err
			}
			if shared {
				e.apart(f, taken)
			}
		}
		answer = nil
	}
	return fmt.Errorf("clear its tuples %d times: %w", tries, unix.EEXIST)
}

// clear frees both tuples of f's entry, unless f's entry exists already or is not needed.
// shared means that the entry of another flow, which leaves alike, has the reply tuple:
// that entry stays.
func (c *Conn) clear(f calls.Flow, wanted *entry) (stands, shared bool, err error) {
	e, err := c.inWay(enters(f), f.Zone)
	switch {
	case err != nil:
		return false, false, err
	case e != nil && e.translates(f):
		stands, err = c.setMark(*e, f)
		return stands, false, err
	case e != nil && e.lends(f):
		return true, false, nil
	}
	zone := wanted.both | wanted.reply.zone
	replies, err := c.inWay(leaves(f).Reversed(), zone)
	if err != nil {
		return false, false, err
	}
	err = c.clearAway(enters(f), f.Zone, e)
	if shared = c.shares(f, wanted, replies); !shared {
		err = errors.Join(err, c.clearAway(leaves(f).Reversed(), zone, replies))
	}
	return false, shared, err
}

// shares reports whether an entry is of another flow that leaves as f does, and f's reply
// tuple can lie in another zone than in the wanted entry.
func (c *Conn) shares(f calls.Flow, wanted, e *entry) bool {
	if e == nil || wanted.both != 0 || c.noZones {
		return false
	}
	other, ours := e.flow()
	return ours && leaves(other) == leaves(f)
}

// inWay returns the entry that has a tuple in a zone, nil if there is none.
func (c *Conn) inWay(t calls.Tuple, zone uint16) (*entry, error) {
	e, err := c.get(gre(t), zone)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get the entry in the way: %w", err)
	}
	return &e, nil
}

// clearAway deletes the entry that was found with a tuple in a zone, but not a later one.
// An entry with both keys 0 may be a tunnel's: it stays if it has seen an answer and is not
// a flow's.
func (c *Conn) clearAway(t calls.Tuple, zone uint16, e *entry) error {
	if e == nil {
		return nil
	}
	if _, ours := e.flow(); !ours && t.Src.Port()|t.Dst.Port() == 0 && e.status&statusSeenReply != 0 {
		return fmt.Errorf("%w: original %v, reply %v", ErrTaken, e.orig.Tuple, e.reply.Tuple)
	}
	if err := c.remove(gre(t), zone, e.id); err != nil {
		return fmt.Errorf("delete the entry in the way: %w", err)
	}
	return nil
}

// setMark gives f's mark to its entry, and returns false if the entry is gone.
func (c *Conn) setMark(e entry, f calls.Flow) (stands bool, err error) {
	if e.mark == f.Mark {
		return true, nil
	}
	err = c.exchange(markRequest(gre(enters(f)), f.Zone, f.Mark), nil, nil)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("set the mark of its entry: %w", err)
	}
	return true, nil
}

// Delete deletes a flow's entry. It is no error if the entry is gone, or if an entry in its
// place translates differently; that one stays. Delete ignores the mark, which others may
// change.
func (c *Conn) Delete(f calls.Flow) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delete(f)
}

func (c *Conn) delete(f calls.Flow) error {
	err := checkFlow(f)
	if err == nil {
		err = c.take(f)
	}
	if err != nil {
		return fmt.Errorf("delete GRE entry for %v: %w", f, err)
	}
	return nil
}

// take queries the entry before it deletes it by its ID: the kernel compares nothing else,
// and finds an entry by the tuple of either direction.
func (c *Conn) take(f calls.Flow) error {
	e, err := c.get(gre(enters(f)), f.Zone)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil || !e.translates(f) {
		return err
	}
	return c.remove(gre(enters(f)), f.Zone, e.id)
}

// Has reports whether a flow's entry is in the table, whatever its mark.
func (c *Conn) Has(f calls.Flow) (bool, error) {
	if err := checkFlow(f); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.get(gre(enters(f)), f.Zone)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, fmt.Errorf("get GRE entry for %v: %w", f, err)
	}
	return err == nil && e.translates(f), nil
}

// Flows returns every flow in the table, in all zones, in no order: each GRE entry of the
// shape that Create gives it, whoever created it. It does not list other GRE entries.
func (c *Conn) Flows() ([]calls.Flow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	flows, err := list(c, byProto(unix.IPPROTO_GRE), (*entry).flow)
	if err != nil {
		return nil, fmt.Errorf("list GRE entries: %w", err)
	}
	return flows, nil
}

// Stray is a GRE entry that the kernel created for a packet without an entry. It lasts for
// half a minute after its last packet (net.netfilter.nf_conntrack_gre_timeout). The kernel
// creates it only for packets that the firewall lets pass.
type Stray struct {
	Src, Dst netip.Addr
	Key      pptp.CallID // 0 also if the packets are not enhanced GRE
	Zone     uint16
	ID       uint32 // tells it from a later one of the same packets
	Traffic  calls.Traffic
}

// Traffic puts the flows that Flows lists into a map, unmarked, with what each has carried,
// and also the flows that need no entry of their own: see Lent in calls.Traffic. It returns
// the strays for which wanted reports true, none if wanted is nil; it may call wanted more
// than once for one. After an error, the map may be incomplete.
func (c *Conn) Traffic(into map[calls.Flow]calls.Traffic, wanted func(*Stray) bool) (strays []Stray, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := false
	again := func() {
		clear(into)
		strays, old = nil, false
	}
	err = c.dump(byProto(unix.IPPROTO_GRE), again, func(_ int, e *entry) {
		e.translated(into)
		old = old || e.outdated()
		if s, ok := e.stray(); ok && wanted != nil && wanted(&s) {
			strays = append(strays, s)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list GRE entries: %w", err)
	}
	c.current = !old
	return strays, nil
}

// translated adds the flows that the entry translates.
func (e *entry) translated(into map[calls.Flow]calls.Traffic) {
	for _, f := range e.lent() {
		if _, there := into[f]; !there {
			into[f] = calls.Traffic{Lent: true}
		}
	}
	if f, ok := e.flow(); ok {
		into[f.Unmarked()] = e.counts[0]
	}
}

// checkFlow guards flowEntry, which gives 0.0.0.0 a special meaning. No packet has that
// address.
func checkFlow(f calls.Flow) error {
	for _, a := range [...]netip.Addr{f.Src, f.Dst, f.NewSrc, f.NewDst} {
		if a == netip.IPv4Unspecified() {
			return fmt.Errorf("%v is not a host's address", a)
		}
	}
	return checkIPv4(f.Src, f.Dst, f.NewSrc, f.NewDst)
}
