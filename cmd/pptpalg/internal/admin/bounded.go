package admin

import (
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mostConnections is how many connections one listener has at a time.
	mostConnections = 256
	// spareFiles is how many descriptors the rest of the daemon may need: its sockets, the
	// journal's next file, iptables with its pipes.
	spareFiles = 96
)

// connectionLimit returns how many connections each of two listeners may have, so that the
// process does not run out of descriptors.
func connectionLimit() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return mostConnections
	}
	files := int(min(limit.Cur, math.MaxInt32))
	return max(4, min(mostConnections, (files-spareFiles)/2))
}

// bounded is a listener with a limit on its connections. It accepts a new connection beyond
// the limit, and closes the one that has been silent longest: so idle clients, whatever
// their number, lock out nobody.
type bounded struct {
	net.Listener
	most   int
	closed func() // is called for each connection that is closed for another

	mu    sync.Mutex // guards conns
	conns map[*boundedConn]struct{}
}

func bound(l net.Listener, most int, closed func()) *bounded {
	return &bounded{Listener: l, most: most, closed: closed, conns: make(map[*boundedConn]struct{})}
}

func (b *bounded) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	fresh := &boundedConn{Conn: c, listener: b}
	fresh.touch()
	if idle := b.add(fresh); idle != nil {
		_ = idle.Close() // nobody is waiting for it
		b.closed()
	}
	return fresh, nil
}

// add adds a connection and returns the one to close, nil for none.
func (b *bounded) add(fresh *boundedConn) (idle *boundedConn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.conns) >= b.most {
		for c := range b.conns {
			if idle == nil || c.used.Load() < idle.used.Load() {
				idle = c
			}
		}
		delete(b.conns, idle)
	}
	b.conns[fresh] = struct{}{}
	return idle
}

func (b *bounded) remove(c *boundedConn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

// boundedConn is a connection of a bounded listener.
type boundedConn struct {
	net.Conn
	listener *bounded
	used     atomic.Int64 // when it was last used, nanoseconds since start
}

var start = time.Now()

func (c *boundedConn) touch() { c.used.Store(int64(time.Since(start))) }

func (c *boundedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.touch()
	}
	return n, err
}

func (c *boundedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.touch()
	}
	return n, err
}

func (c *boundedConn) Close() error {
	c.listener.remove(c)
	return c.Conn.Close()
}
