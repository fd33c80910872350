package nfqueue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Two queues: number, port, waiting, copy mode, copy range, dropped, dropped by
// user space, last ID, 1.
const sampleQueues = "    7   4242     0 1     0     0     0        0  1\n" +
	" 1723 3221225472    12 2 65531     3     4     5000  1\n"

const sampleNetlink = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000730d2b8b 0   4242       00000000 0        0        0     2        0        10507   
00000000a28ebff3 12  4242       00000000 0        0        0     2        0        10513   
00000000a28ebff4 12  3221225472 00000000 0        0        0     2        0        10514   
`

func TestFindRow(t *testing.T) {
	got, err := findRow(sampleQueues, 1723)
	want := row{port: 3221225472, stats: Stats{Waiting: 12, Full: 3, Overrun: 4, Queued: 5000}}
	if err != nil || got != want {
		t.Errorf("row %+v, %v; want %+v", got, err, want)
	}
	for _, table := range []string{"", "x\n", "8 1 2 3\n", sampleQueues} {
		if _, err := findRow(table, 8); !errors.Is(err, errNotBound) {
			t.Errorf("%q: error %v", table, err)
		}
	}
}

func TestSocketInode(t *testing.T) {
	for port, want := range map[uint32]string{4242: "10513", 3221225472: "10514", 1: ""} {
		if got := socketInode(sampleNetlink, port); got != want {
			t.Errorf("port %d: inode %q, want %q", port, got, want)
		}
	}
}

// fakeProc makes a directory in which process 1234, fw-thing, has socket 10514.
func fakeProc(t *testing.T) string {
	t.Helper()
	proc := t.TempDir()
	err := errorOf(
		os.MkdirAll(filepath.Join(proc, "thread-self/net"), 0o755),
		os.MkdirAll(filepath.Join(proc, "1/fd"), 0o755),
		os.MkdirAll(filepath.Join(proc, "1234/fd"), 0o755),
		os.WriteFile(filepath.Join(proc, "thread-self/net/netlink"), []byte(sampleNetlink), 0o644),
		os.WriteFile(filepath.Join(proc, "1234/comm"), []byte("fw-thing\n"), 0o644),
		os.Symlink("socket:[99]", filepath.Join(proc, "1/fd/3")),
		os.Symlink("/dev/null", filepath.Join(proc, "1234/fd/0")),
		os.Symlink("socket:[10514]", filepath.Join(proc, "1234/fd/5")),
	)
	if err != nil {
		t.Fatalf("make proc: %v", err)
	}
	return proc
}

func TestOwner(t *testing.T) {
	proc := fakeProc(t)
	tests := []struct {
		name    string
		proc    string
		port    uint32
		pid     int
		command string
	}{
		{"found", proc, 3221225472, 1234, "fw-thing"},
		{"socket of a process not to be seen", proc, 4242, 0, ""},
		{"no such port", proc, 1, 0, ""},
		{"no proc", t.TempDir(), 4242, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pid, command := owner(tt.proc, tt.port)
			if pid != tt.pid || command != tt.command {
				t.Errorf("pid %d (%s), want %d (%s)", pid, command, tt.pid, tt.command)
			}
		})
	}
}

func TestTakenErrorText(t *testing.T) {
	tests := []struct {
		err  TakenError
		want string
	}{
		{TakenError{Queue: 1723, PortID: 9, PID: 1234, Command: "fw-thing", Err: unix.EPERM},
			"queue 1723 is bound by pid 1234 (fw-thing): operation not permitted: stop that program, or use another queue number"},
		{TakenError{Queue: 1723, PortID: 9, Err: unix.EPERM},
			"queue 1723 is bound by netlink port 9: operation not permitted: stop that program, or use another queue number"},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, tt.err.Error()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestExplainHints(t *testing.T) {
	for errno, hint := range map[unix.Errno]string{
		unix.EINVAL:          "nfnetlink_queue",
		unix.EPROTONOSUPPORT: "nfnetlink_queue",
		unix.EOPNOTSUPP:      "nfnetlink_queue",
		unix.EBUSY:           "another queue number",
		unix.ENOMEM:          "kernel log",
	} {
		err := explain(testQueue, &netlink.OpError{Op: "receive", Err: errno})
		if !strings.Contains(err.Error(), hint) || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}
