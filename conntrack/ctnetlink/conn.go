package ctnetlink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/conntrack"
)

// ErrNotFound says that the table has no such entry.
var ErrNotFound = errors.New("no such conntrack entry")

var (
	errStale       = errors.New("answer to another request")
	errInterrupted = errors.New("dump interrupted by a change of the table")
)

// tries bounds how often a request is sent that fails for a passing reason.
const tries = 4

// Conn is a connection to the conntrack table of one network namespace. It is
// safe for concurrent use. Requests go one after the other, and a dump delays
// the rest by its whole length: who cannot wait dials a Conn of its own.
type Conn struct {
	dial func() (socket, error)

	mu       sync.Mutex // guards what follows: one request at a time is on the socket
	socket   socket
	closed   bool
	noFilter bool // the kernel has refused to filter a dump
	zones    zones
	searches budget
}

// Dial opens a connection to the conntrack table of the calling thread's network
// namespace. It asks one question, so that a kernel without conntrack's netlink
// interface and a process without the right to use it are found here.
func Dial() (*Conn, error) { return open(dialKernel) }

// open is Dial over any way to a socket.
func open(dial func() (socket, error)) (*Conn, error) {
	s, err := dial()
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w%s", err, hint(err))
	}
	c := &Conn{dial: dial, socket: s}
	if err := c.probe(); err != nil {
		c.Close()
		return nil, fmt.Errorf("ask conntrack for an entry: %w%s", err, hint(err))
	}
	return c, nil
}

// probe looks up a connection that cannot be: any answer to it will do.
func (c *Conn) probe() error {
	nowhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	_, err := c.get(tcp(conntrack.Tuple{Src: nowhere, Dst: nowhere}), 0)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// hint names the next thing to do about an error of Dial.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return " (run as root or grant CAP_NET_ADMIN)"
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return " (the kernel has no netfilter netlink: load module nfnetlink, or build with CONFIG_NETFILTER_NETLINK)"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return " (the kernel has no conntrack netlink: load module nf_conntrack_netlink, or build with CONFIG_NF_CT_NETLINK)"
	}
	return ""
}

// Close ends the connection after the request under way. Entries stay.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if err := c.socket.Close(); err != nil {
		return fmt.Errorf("close netfilter netlink socket: %w", err)
	}
	return nil
}

// get returns the entry of which t is a tuple in the zone, or ErrNotFound.
func (c *Conn) get(t tuple, zone uint16) (entry, error) {
	es, err := c.exchange(getRequest(t, zone), nil)
	if err != nil {
		return entry{}, err
	}
	if len(es) == 0 {
		return entry{}, ErrNotFound
	}
	return es[0], nil
}

// remove takes an entry out of the table. One that is gone is no error.
func (c *Conn) remove(t tuple, zone uint16, id uint32) error {
	_, err := c.exchange(deleteRequest(t, zone, id), nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// dump returns the IPv4 entries of all zones that match the filter.
func (c *Conn) dump(f filter) ([]entry, error) {
	if !c.noFilter {
		es, err := c.exchange(dumpRequest(f, true), f.match)
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			return es, err
		}
		c.noFilter = true
	}
	return c.exchange(dumpRequest(f, false), f.match)
}

// exchange sends a request and returns the entries of the answer for which keep
// is true; a nil keep keeps all. Requests may be repeated: a create that had
// been carried out answers EEXIST, a delete ErrNotFound.
//
// The caller holds mu, as for everything that leads here.
func (c *Conn) exchange(r request, keep func(entry) bool) ([]entry, error) {
	m, err := r.message()
	if err != nil {
		return nil, err
	}
	for range tries {
		var es []entry
		es, err = c.try(m, keep)
		if err == nil || !passing(err) {
			return es, err
		}
	}
	return nil, fmt.Errorf("give up after %d tries: %w", tries, err)
}

// try does one exchange. After a failure of the socket itself the rest of the
// answer may still be on it, so the socket is replaced.
func (c *Conn) try(m netlink.Message, keep func(entry) bool) ([]entry, error) {
	if c.closed {
		return nil, net.ErrClosed
	}
	req, err := c.socket.Send(m)
	if err != nil {
		return nil, c.redial(err)
	}
	a := answer{keep: keep}
	for !a.ended {
		msgs, err := c.socket.receive()
		if err != nil {
			return nil, c.redial(err)
		}
		for _, m := range msgs {
			if m.Header.Sequence != req.Header.Sequence {
				return nil, c.redial(errStale)
			}
			a.add(m)
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	return a.entries, nil
}

// answer is what has come of the kernel's answer to a request.
type answer struct {
	keep    func(entry) bool
	entries []entry
	err     error // the first one; the answer is read to its end nevertheless
	ended   bool
}

func (a *answer) add(m netlink.Message) {
	if m.Header.Flags&netlink.DumpInterrupted != 0 {
		a.fail(errInterrupted)
	}
	if ends(m) {
		a.fail(found(errno(m)))
		a.ended = true
	}
	if m.Header.Type != msgNew {
		return
	}
	e, err := decodeEntry(m.Data)
	if err != nil {
		a.fail(err)
	} else if a.keep == nil || a.keep(e) {
		a.entries = append(a.entries, e)
	}
}

func (a *answer) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// redial replaces the socket after err, and returns err.
func (c *Conn) redial(err error) error {
	s, dialErr := c.dial()
	if dialErr != nil {
		// The old socket stays: the next request fails on it, or does not.
		return errors.Join(err, fmt.Errorf("reopen netfilter netlink socket: %w", dialErr))
	}
	c.socket.Close() // nothing is lost with it
	c.socket = s
	return err
}

// passing reports whether the same request may succeed if sent again.
func passing(err error) bool {
	for _, e := range []error{unix.EINTR, unix.ENOBUFS, errStale, errInterrupted} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// found turns the kernel's ENOENT into ErrNotFound.
func found(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return ErrNotFound
	}
	return err
}

// checkIPv4 is the guard before an encoding that knows 4-byte addresses alone.
func checkIPv4(addrs ...netip.Addr) error {
	for _, a := range addrs {
		if !a.Is4() {
			return fmt.Errorf("address %v is not IPv4", a)
		}
	}
	return nil
}
