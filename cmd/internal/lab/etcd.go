package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// StartEtcd starts one member of etcd on a host, a cluster of its own, and waits until it answers
// clients there. Its data are in a directory, as far as the kernel has written them.
func StartEtcd(h *Host, at netip.AddrPort, data string) (*Process, error) {
	const peer = "http://127.0.0.1:2380"
	client := "http://" + at.String()
	cmd, err := h.Command(context.Background(), "etcd", "--name", "one", "--data-dir", data, "--unsafe-no-fsync",
		"--logger", "zap", "--log-level", "error", "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "one="+peer,
		"--heartbeat-interval", "50", "--election-timeout", "300")
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	log := new(Log)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := h.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	if err := Poll(Patience, func() bool { return listens(h, at) }); err != nil {
		return nil, fmt.Errorf("start etcd: %w: %s", errors.Join(err, p.Kill()), log)
	}
	return p, nil
}

// listens reports whether somebody takes connections at an address of a host.
func listens(h *Host, at netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := h.Dial(ctx, netip.AddrPort{}, at)
	return err == nil && conn.Close() == nil
}
