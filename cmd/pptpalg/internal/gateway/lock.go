package gateway

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"pptpalg/alg/nfqueue"
)

// lock keeps a second daemon out of the network namespace: it would take over the first
// one's rules and its clients' Call IDs. The queue number nfqueue.Lock is the lock itself.
// The name of a socket beside it says whose it is, for the second daemon's error message;
// nothing depends on it, since any local user can bind such a name.
type lock struct {
	queue *nfqueue.Queue
	name  int // socket; -1 for none
}

// namePrefix begins the abstract names (unix(7)) of daemons' sockets:
// @pptpalg/PID/QUEUE/STATE-DIRECTORY.
const namePrefix = "@pptpalg/"

// takeLock takes the network namespace's lock. It comes before anything that another daemon
// would notice.
func takeLock(cfg *Config) (*lock, error) {
	q, err := nfqueue.TakeLock()
	if errors.Is(err, nfqueue.ErrTaken) {
		return nil, fmt.Errorf("lock network namespace: another daemon has it: %s: stop that one first", holder(err))
	}
	if err != nil {
		return nil, fmt.Errorf("lock network namespace: %w", err)
	}
	return &lock{queue: q, name: bindName(fmt.Sprintf("%s%d/%d/%s", namePrefix, os.Getpid(), cfg.Queue, cfg.StateDir))}, nil
}

// bindName returns a socket that cannot be connected to, -1 if there can be none.
func bindName(name string) int {
	const longest = 107 // of sockaddr_un, without the leading zero
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name[:min(len(name), longest)]}); err != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// holder says which daemon has the lock, as far as this process can learn it.
func holder(err error) string {
	names, _ := os.ReadFile("/proc/thread-self/net/unix") // if it cannot be read, the process has to do
	var by *nfqueue.TakenError
	if !errors.As(err, &by) {
		by = new(nfqueue.TakenError)
	}
	return describe(by.PID, by.Command, string(names))
}

// describe looks up a process in the kernel's list of unix sockets (unix_seq_show), or takes
// the first daemon of that list if pid is 0.
func describe(pid int, command, list string) string {
	who := "its process is not known"
	if pid != 0 {
		who = fmt.Sprintf("pid %d (%s)", pid, command)
	}
	for line := range strings.Lines(list) {
		_, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "+namePrefix)
		told := strings.SplitN(name, "/", 3)
		if len(told) < 3 || pid != 0 && told[0] != strconv.Itoa(pid) {
			continue
		}
		if queue, err := strconv.ParseUint(told[1], 10, 16); err == nil {
			return fmt.Sprintf("%s, queue %d, state directory %q", who, queue, told[2])
		}
	}
	return who
}

func (l *lock) release() error {
	if l.name >= 0 {
		unix.Close(l.name)
	}
	return l.queue.Close()
}
