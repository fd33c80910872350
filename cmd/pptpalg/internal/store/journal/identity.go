package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Identity tells the kernel's conntrack table of the calling thread's network namespace from
// that of any other boot or namespace: what the journal remembers of one means nothing to
// another.
//
// A namespace's cookie (SO_NETNS_COOKIE, Linux 5.14) is unique for a boot. Older kernels have
// only the inode of /proc/PID/ns/net, which a new namespace may get after the old one was
// deleted: there, a journal that outlives its namespace may be taken for the new one's.
func Identity() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot ID: %w", err)
	}
	netns, err := namespace()
	if err != nil {
		return "", fmt.Errorf("read network namespace: %w", err)
	}
	return string(bytes.TrimSpace(boot)) + " " + netns, nil
}

func namespace() (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return os.Readlink("/proc/thread-self/ns/net")
	}
	return fmt.Sprintf("netns cookie %d", cookie), os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
}
