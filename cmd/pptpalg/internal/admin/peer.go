package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
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

// Suspended is the process of a daemon that a signal has stopped: it would not answer.
type Suspended int

func (s Suspended) Error() string {
	return fmt.Sprintf("the daemon (process %d) is suspended by a signal (SIGSTOP): \"kill -CONT %d\" resumes it", int(s), int(s))
}

// suspended returns a Suspended if the daemon is, nil also where that cannot be told.
func (c Client) suspended(ctx context.Context) error {
	pid, err := c.PID(ctx)
	if err != nil || pid == 0 {
		return nil // the request will tell
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	// The name in parentheses may have anything in it. Behind it is the state.
	rest := bytes.TrimSpace(text[bytes.LastIndexByte(text, ')')+1:])
	if len(rest) > 0 && (rest[0] == 'T' || rest[0] == 't') {
		return Suspended(pid)
	}
	return nil
}
