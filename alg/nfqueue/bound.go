package nfqueue

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// TakenError says that another socket has the queue.
type TakenError struct {
	Queue   uint16
	PortID  uint32 // the netlink port of that socket
	PID     int    // the process that has it, 0 if not found
	Command string // that process's name, "" if not found
	Err     error  // what the kernel answered
}

func (e *TakenError) Error() string {
	by := fmt.Sprintf("netlink port %d", e.PortID)
	if e.PID != 0 {
		by = fmt.Sprintf("pid %d (%s)", e.PID, e.Command)
	}
	return fmt.Sprintf("queue %d is bound by %s: %v: stop that program, or use another queue number", e.Queue, by, e.Err)
}

func (e *TakenError) Unwrap() error { return e.Err }

// Is reports that the error is an ErrTaken.
func (e *TakenError) Is(target error) bool { return target == ErrTaken }

// ErrTaken says that another socket has the queue.
var ErrTaken = errors.New("another program seems to have it")

// explain adds the likely cause and the next step to the kernel's answer.
func explain(queue uint16, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return explainPermission(queue, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		// nfnetlink_rcv_msg answers EINVAL for a subsystem that is not there, and
		// socket(2) EPROTONOSUPPORT without nfnetlink.
		return fmt.Errorf("bind queue %d: %w: the kernel seems to have no NFQUEUE: load the module nfnetlink_queue, or use a kernel with CONFIG_NETFILTER_NETLINK_QUEUE", queue, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("bind queue %d: %w: use another queue number", queue, err)
	}
	return fmt.Errorf("bind queue %d: %w: see the kernel log", queue, err)
}

// explainPermission tells the two causes of EPERM apart: another socket has the queue
// (nfqnl_recv_config), or the caller lacks the capability (nfnetlink_rcv) and usually
// cannot read the kernel's table either.
func explainPermission(queue uint16, err error) error {
	row, readErr := readRow(queue)
	if readErr == nil {
		taken := &TakenError{Queue: queue, PortID: row.port, Err: err}
		taken.PID, taken.Command = owner("/proc", row.port)
		return taken
	}
	if errors.Is(readErr, os.ErrPermission) && capable() {
		return fmt.Errorf("bind queue %d: %w: %w: run as root to learn which, or use another queue number", queue, err, ErrTaken)
	}
	return fmt.Errorf("bind queue %d: %w: run as root, or with CAP_NET_ADMIN", queue, err)
}

// capable reports whether the process has CAP_NET_ADMIN.
func capable() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}
