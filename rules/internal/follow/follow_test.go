package follow

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"pptpalg/rules/internal/trial"
)

const patience = 10 * time.Second

// pair returns a socket that is in a group, and what sends to the group.
func pair(t *testing.T) (c *netlink.Conn, send func() error) {
	t.Helper()
	trial.NeedRoot(t)
	const group = 1
	var ends [2]*netlink.Conn
	for i, groups := range []uint32{1 << (group - 1), 0} {
		end, err := netlink.Dial(unix.NETLINK_USERSOCK, &netlink.Config{Groups: groups})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = end.Close() })
		ends[i] = end
	}
	raw, err := ends[1].SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (group - 1)}
	message := make([]byte, unix.NLMSG_HDRLEN)
	message[0], message[4] = unix.NLMSG_HDRLEN, unix.NLMSG_MIN_TYPE
	return ends[0], func() (sent error) {
		err := raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), message, unix.MSG_DONTWAIT, to) })
		if errors.Is(sent, unix.ECONNREFUSED) {
			sent = nil // the group has it; the kernel, to which it goes as well, has no such socket
		}
		return errors.Join(err, sent)
	}
}

// Nothing that came before was told, so changed is called at once; then for each message; and not
// any more when ctx is done.
func TestSocket(t *testing.T) {
	c, send := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- Socket(ctx, c, func() { changed <- struct{}{} }) }()
	for i := range 3 {
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatalf("changed is not called after %d messages", i)
		}
		if i < 2 {
			if err := send(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// Messages that do not fit into the socket's buffer are lost: that is a change.
func TestSocketLoses(t *testing.T) {
	c, send := pair(t)
	if err := c.SetReadBuffer(1); err != nil { // the kernel makes it the smallest that there is
		t.Fatal(err)
	}
	for range 1000 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	err := Socket(ctx, c, func() {
		if calls++; calls == 3 {
			cancel()
		}
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, ended with %v", calls, err)
	}
}

// An error other than that of lost messages ends it.
func TestSocketFails(t *testing.T) {
	c, _ := pair(t)
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := Socket(t.Context(), c, func() {}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
}
