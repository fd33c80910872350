package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/alg/calls"
)

// ErrNotFound says that the table has no such entry.
var ErrNotFound = errors.New("no such conntrack entry")

var (
	errStale       = errors.New("answer to another request")
	errInterrupted = errors.New("dump interrupted by a change of the table")
)

// tries is how often a request is sent that fails for a passing reason.
const tries = 4

// Conn is a connection to the conntrack table of one network namespace. It is safe for
// concurrent use. Requests are sent one after the other, and a dump delays the others by
// its whole length: a caller that cannot wait dials a Conn of its own.
type Conn struct {
	dial func() (socket, error)

	mu       sync.Mutex // guards what follows: one request at a time is on the socket
	socket   socket
	closed   bool
	noFilter bool // the kernel has refused to filter a dump
	noZones  bool // the kernel has refused a zone: it is built without (CONFIG_NF_CONNTRACK_ZONES)
	current  bool // the last Traffic has met no entry of an earlier release
	zones    zones
	searches budget
	sequence uint32 // number of the next message

	// Memory that is reused, and what is in it.
	out   outbox  // messages of the datagram under way
	errs  []error // what became of each
	steps []step  // of the changes under way
	order []int   // the change that each message is about
	seen  entry   // the latest one of an answer
}

// Dial opens a connection to the conntrack table of the calling thread's network namespace.
// It sends one request, so that it fails here if the kernel has no netlink interface to
// conntrack, or if the process may not use it.
//
// If a socket fails, the calling thread opens another one, so the users of the Conn must
// stay in the namespace.
func Dial() (*Conn, error) { return open(dialKernel) }

// open is Dial with any function that opens a socket.
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

// probe looks up a connection that cannot exist: any answer will do.
func (c *Conn) probe() error {
	nowhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	_, err := c.get(tcp(calls.Tuple{Src: nowhere, Dst: nowhere}), 0)
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
func (c *Conn) get(t tuple, zone uint16) (e entry, err error) {
	err = c.exchange(getRequest(t, zone), nil, func(_ int, answer *entry) { e = *answer })
	return e, err
}

// remove deletes an entry. It is no error if the entry is gone.
func (c *Conn) remove(t tuple, zone uint16, id uint32) error {
	err := c.exchange(deleteRequest(t, zone, id), nil, nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// list dumps the IPv4 entries of all zones that match the filter, and returns what read
// makes of those for which it reports true.
func list[T any](c *Conn, f filter, read func(*entry) (T, bool)) ([]T, error) {
	var all []T
	err := c.dump(f, func() { all = all[:0] }, func(_ int, e *entry) {
		if !f.match(e) {
			return
		}
		if v, ok := read(e); ok {
			all = push(all, v)
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// push is append that doubles a full slice of any length: append's smaller steps copy a
// long slice several times more.
func push[T any](s []T, v T) []T {
	if len(s) == cap(s) {
		s = slices.Grow(s, max(len(s), 16))
	}
	return append(s, v)
}

// dump asks the kernel to filter, and if it cannot, for everything.
func (c *Conn) dump(f filter, again func(), see func(int, *entry)) error {
	if !c.noFilter {
		err := c.exchange(dumpRequest(f, true), again, see)
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			return err
		}
		c.noFilter = true
	}
	return c.exchange(dumpRequest(f, false), again, see)
}

// exchange sends a request and reads the answer. Each try begins with a call of again:
// entries that see got before are void. Either may be nil, and see may not keep the entry.
// Requests may be repeated: then a create that was carried out fails with EEXIST, a delete
// with ErrNotFound.
//
// The caller holds mu.
func (c *Conn) exchange(r request, again func(), see func(int, *entry)) error {
	c.out.reset()
	c.out.add(r)
	var err error
	for range tries {
		if again != nil {
			again()
		}
		err = c.send(see)[0]
		if err == nil || !passing(err) {
			return err
		}
	}
	return fmt.Errorf("give up after %d tries: %w", tries, err)
}

// send sends what is in the outbox, once. It calls see with each entry of the answers and
// the index of its message, and returns the error of each message. The result is valid
// until the next send.
func (c *Conn) send(see func(int, *entry)) []error {
	c.errs = slices.Grow(c.errs[:0], len(c.out.at))[:len(c.out.at)]
	clear(c.errs)
	if len(c.out.at) == 0 {
		return nil
	}
	a := answers{see: see, errs: c.errs, first: c.sequence, bare: c.out.number(c.sequence)}
	c.sequence += uint32(len(c.out.at))
	if err := c.converse(a); err != nil {
		for i := range c.errs {
			c.errs[i] = err
		}
	}
	return c.errs
}

// converse returns an error if the socket fails. The rest of the answer may still
// be on it then, so it is replaced.
func (c *Conn) converse(a answers) error {
	if c.closed {
		return net.ErrClosed
	}
	if err := c.socket.send(c.out.b); err != nil {
		return c.redial(err)
	}
	for !a.ended {
		msgs, err := c.socket.receive()
		if err != nil {
			return c.redial(err)
		}
		for _, m := range msgs {
			if !a.add(m, &c.seen) {
				return c.redial(errStale)
			}
		}
	}
	return nil
}

// answers collects the kernel's answers to messages sent together.
type answers struct {
	see   func(int, *entry) // nil if entries are not wanted
	first uint32            // sequence number of the first message
	errs  []error           // by message, the first of each; the answer is read to its end nevertheless
	bare  bool              // an entry is the end of the last message's answer
	ended bool
}

// add reports whether m answers one of the messages. It decodes an entry into e, which is
// reused.
func (a *answers) add(m netlink.Message, e *entry) bool {
	// Sequence numbers wrap around, and so does the difference of earlier ones.
	i := m.Header.Sequence - a.first
	if i >= uint32(len(a.errs)) {
		return false
	}
	if m.Header.Flags&netlink.DumpInterrupted != 0 {
		a.fail(i, errInterrupted)
	}
	last := i == uint32(len(a.errs))-1
	switch {
	case ends(m):
		a.fail(i, found(errno(m)))
		a.ended = last
	case m.Header.Type == msgNew:
		a.fail(i, a.show(int(i), m.Data, e))
		a.ended = last && a.bare
	}
	return true
}

func (a *answers) show(i int, b []byte, e *entry) (err error) {
	if a.see == nil {
		return nil
	}
	if *e, err = decodeEntry(b); err == nil {
		a.see(i, e)
	}
	return err
}

// fail records an error, or nothing if it is nil.
func (a *answers) fail(i uint32, err error) {
	if a.errs[i] == nil {
		a.errs[i] = err
	}
}

// redial replaces the socket after err, and returns err.
func (c *Conn) redial(err error) error {
	s, dialErr := c.dial()
	if dialErr != nil {
		// The old socket stays: the next request may fail on it.
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

// checkIPv4 guards an encoding that knows only 4-byte addresses.
func checkIPv4(addrs ...netip.Addr) error {
	for _, a := range addrs {
		if !a.Is4() {
			return fmt.Errorf("address %v is not IPv4", a)
		}
	}
	return nil
}
