package farm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
)

// Cycle sets calls up and clears them again, as fast as it goes and for as long as
// it is told, and returns how many it has been.
func (f *Farm) Cycle(ctx context.Context, length time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	var ended atomic.Int64
	ready := make(chan int, 2*socketsAtOnce)
	group.Go(func() error { return f.feed(ctx, ready) })
	for w := range workers {
		group.Go(func() error {
			for i := w; ; i += workers {
				fd, ok := <-ready
				if !ok {
					return nil
				}
				if err := f.cycle(fd, i); err != nil {
					return err
				}
				ended.Add(1)
			}
		})
	}
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("cycle calls: %w", err)
	}
	return int(ended.Load()), nil
}

// feed makes sockets until ctx is done.
func (f *Farm) feed(ctx context.Context, ready chan<- int) error {
	defer close(ready)
	for made := 0; ctx.Err() == nil; made += socketsAtOnce {
		s := f.someSockets(made, socketsAtOnce, func(i int) netip.AddrPort {
			return netip.AddrPortFrom(f.clients[i%len(f.clients)], 0)
		})
		for _, fd := range s.fds {
			select {
			case ready <- fd:
			case <-ctx.Done():
				s.err = errors.Join(s.err, unix.Close(fd))
			}
		}
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

// cycle is one call's life.
func (f *Farm) cycle(fd, i int) error {
	c := newClient(fd)
	own := pptp.CallID(i%talked + 1)
	err := c.setUp(f.servers[i%len(f.servers)], own)
	if err == nil {
		err = c.clear(own)
	}
	return errors.Join(err, c.close())
}

// RoundTrips measures, one after the other on one connection, how long it takes
// from an Outgoing-Call-Request to its reply, n times.
func (f *Farm) RoundTrips(n int) ([]time.Duration, error) {
	s := f.someSockets(0, 1, func(int) netip.AddrPort { return netip.AddrPortFrom(f.clients[0], 0) })
	if s.err != nil {
		return nil, fmt.Errorf("measure round trips: %w", s.err)
	}
	c := newClient(s.fds[0])
	times, err := f.roundTrips(c, n)
	if err := errors.Join(err, c.close()); err != nil {
		return nil, fmt.Errorf("measure round trips: %w", err)
	}
	return times, nil
}

func (f *Farm) roundTrips(c *client, n int) ([]time.Duration, error) {
	if err := c.connect(f.servers[0]); err != nil {
		return nil, err
	}
	if err := c.exchange(startRequest, len(startReply)); err != nil {
		return nil, err
	}
	times := make([]time.Duration, 0, n)
	for i := range n {
		own := pptp.CallID(i%talked + 1)
		took, err := c.timed(func() error { return c.call(own) })
		if err != nil {
			return nil, err
		}
		times = append(times, took)
		if err := c.clear(own); err != nil {
			return nil, err
		}
	}
	return times, nil
}
