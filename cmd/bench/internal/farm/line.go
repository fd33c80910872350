package farm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"pptpalg/alg/pptp"
)

// Line is a control connection that stays, with one call.
type Line struct {
	Call
	c *client
}

// Dial has a client place a call under a Call ID, and keeps it.
func (f *Farm) Dial(client int, own pptp.CallID) (*Line, error) {
	from := f.clients[client%len(f.clients)]
	s := f.someSockets(0, 1, func(int) netip.AddrPort { return netip.AddrPortFrom(from, 0) })
	if s.err != nil {
		return nil, fmt.Errorf("dial: %w", s.err)
	}
	l := &Line{c: newClient(s.fds[0]), Call: Call{Client: from, Server: f.servers[client%len(f.servers)], Own: own}}
	err := l.c.setUp(l.Server, own)
	if err == nil {
		err = f.complete(&l.Call, l.c.peer)
	}
	if err != nil {
		return nil, fmt.Errorf("dial: %w", errors.Join(err, l.c.close()))
	}
	return l, nil
}

// complete adds to a call what the server knows of it.
func (f *Farm) complete(call *Call, peer pptp.CallID) error {
	call.ServerID = peer
	f.mu.Lock()
	defer f.mu.Unlock()
	end, ok := f.known[key{call.Server, peer}]
	if !ok {
		return fmt.Errorf("call %v of %v: server %v has given it no ID %v", call.Own, call.Client, call.Server, peer)
	}
	call.Public, call.PublicID = end.remote, end.peer
	return nil
}

// Echo returns how long an Echo-Request waits for its reply.
func (l *Line) Echo() (time.Duration, error) {
	return l.c.timed(func() error { return l.c.exchange(echoRequest, len(echoReply)) })
}

// Clear ends the call; the server must say that it was this one.
func (l *Line) Clear() error {
	_, err := l.c.timed(func() error { return l.c.clear(l.Own) })
	if got := id(l.c.buf[offID:]); err == nil && got != l.ServerID {
		err = fmt.Errorf("clear call %v, which the server has as %v: it has ended %v", l.Own, l.ServerID, got)
	}
	return err
}

// Close closes the connection.
func (l *Line) Close() error { return l.c.close() }

// timed returns how long something takes that has to end in time.
func (c *client) timed(do func() error) (time.Duration, error) {
	from := time.Now()
	if err := c.file.SetDeadline(from.Add(patience)); err != nil {
		return 0, err
	}
	err := do()
	return time.Since(from), err
}

// Talk places calls and clears them on so many connections, on each as fast as it goes, for as long as
// it is told. It returns how long each call waited from its request to its reply.
func (f *Farm) Talk(ctx context.Context, lines int, length time.Duration) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	waits := make([][]time.Duration, lines)
	for i := range lines {
		group.Go(func() (err error) {
			waits[i], err = f.talk(ctx, i)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("place and clear calls: %w", err)
	}
	var all []time.Duration
	for _, w := range waits {
		all = append(all, w...)
	}
	return all, nil
}

func (f *Farm) talk(ctx context.Context, client int) (waits []time.Duration, err error) {
	l, err := f.Dial(client, pptp.CallID(talked+1))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Clear(); err != nil {
		return nil, err
	}
	for i := 0; ctx.Err() == nil; i++ {
		own := pptp.CallID(i%talked + 1)
		wait, err := l.c.timed(func() error { return l.c.call(own) })
		if err != nil {
			return nil, err
		}
		waits = append(waits, wait)
		if _, err := l.c.timed(func() error { return l.c.clear(own) }); err != nil {
			return nil, err
		}
	}
	return waits, nil
}

// talked is how many Call IDs a connection uses in turn.
const talked = 250
