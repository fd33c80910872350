package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"pptpalg/cmd/internal/lab"
)

// leftAlone opens a connection to PPTP's port that is not PPTP, and waits until nothing
// of it is queued any more. That takes a label of its conntrack entry, which not every
// rule makes room for.
func (n *network) leftAlone() error {
	ours, theirs, err := n.connect()
	if err != nil {
		return fmt.Errorf("leave alone: %w", err)
	}
	defer ours.Close()
	defer theirs.Close()
	talk := func() error {
		text := []byte("this has never been PPTP: " + strings.Repeat(".", 200))
		_, err := ours.Write(text)
		if err == nil {
			_, err = io.ReadFull(theirs, text)
		}
		return err
	}
	var failed error
	err = poll(func() bool {
		before, err := n.queued()
		failed = errors.Join(err, talk())
		after, err := n.queued()
		failed = errors.Join(failed, err)
		return failed != nil || before == after
	})
	if err := errors.Join(failed, err); err != nil {
		return fmt.Errorf("leave alone: %w", err)
	}
	return nil
}

// connect opens a connection from inside to the second outside host, where no server is,
// and returns both its ends.
func (n *network) connect() (ours, theirs net.Conn, err error) {
	at := netip.AddrPortFrom(n.Outside[1].Addr, lab.Port)
	l, err := n.Outside[1].Listen(at)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if ours, err = n.Inside[0].Dial(ctx, netip.AddrPort{}, at); err != nil {
		return nil, nil, err
	}
	theirs, err = l.Accept()
	return ours, theirs, err
}

// queued returns how many packets have been in the queue of control connections: the
// last number that was given to one, in the eighth column (nfnetlink_queue.c, seq_show).
func (n *network) queued() (string, error) {
	var text []byte
	err := n.Gateway.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
		return err
	})
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 7 && f[0] == "1723" {
			return f[7], nil
		}
	}
	return "", errors.New("nobody reads queue 1723")
}
