package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PID returns the daemon's process number, as the caller's PID namespace has it: 0 if it
// is in another one (SO_PEERCRED, unix(7)).
func (c Client) PID(ctx context.Context) (int, error) {
	path := filepath.Join(c.StateDir, socketName)
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, unreachable(path, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask for the daemon's process: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("ask for the daemon's process: %w", err)
	}
	return int(peer.Pid), nil
}
