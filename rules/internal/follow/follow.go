package follow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket calls changed once, and again whenever a socket receives something or has lost it, until
// ctx is done. The caller has joined the groups whose events the socket is to receive, and closes
// it afterwards.
func Socket(ctx context.Context, c *netlink.Conn, changed func()) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // ends Receive
	defer stop()
	changed() // what happened before nobody has told
	for {
		_, err := c.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		changed() // lost events are changes too
	}
}

// nftablesGroup is NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
const nftablesGroup = 7

// NFTables calls changed when somebody may have changed nftables rules, those of iptables-nft
// among them, until ctx is done. The namespace is given as a file; 0 is the caller's own.
func NFTables(ctx context.Context, netNS int, changed func()) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netNS, Groups: 1 << (nftablesGroup - 1)})
	if err != nil {
		return fmt.Errorf("listen to nftables' events: %w", err)
	}
	defer c.Close()
	if err := Socket(ctx, c, changed); err != nil {
		return fmt.Errorf("listen to nftables' events: %w", err)
	}
	return nil
}
