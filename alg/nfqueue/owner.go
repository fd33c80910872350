package nfqueue

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// netlinkNetfilter is NETLINK_NETFILTER, the protocol of the sockets that bind
// queues. Port numbers are unique only within a protocol.
const netlinkNetfilter = "12"

// owner finds the process that has a netlink port: from the port to the socket's
// inode in proc/thread-self/net/netlink, from the inode to a file descriptor. It
// returns 0 and "" if there is none to be seen, as from within a PID namespace.
func owner(proc string, port uint32) (pid int, command string) {
	table, err := os.ReadFile(filepath.Join(proc, "thread-self/net/netlink"))
	if err != nil {
		return 0, ""
	}
	inode := socketInode(string(table), port)
	if inode == "" {
		return 0, ""
	}
	return findHolder(proc, "socket:["+inode+"]")
}

// socketInode reads the columns that netlink_native_seq_show in af_netlink.c
// prints: address, protocol, port, groups, memory in and out, dump, locks, drops,
// inode.
func socketInode(table string, port uint32) string {
	for line := range strings.Lines(table) {
		c := strings.Fields(line)
		if len(c) >= 10 && c[1] == netlinkNetfilter && c[2] == strconv.FormatUint(uint64(port), 10) {
			return c[9]
		}
	}
	return ""
}

// findHolder looks for a file descriptor that is a link to target. Processes come
// and go meanwhile, so one that cannot be read is passed over.
func findHolder(proc, target string) (pid int, command string) {
	links, err := filepath.Glob(filepath.Join(proc, "[0-9]*/fd/*"))
	if err != nil {
		return 0, ""
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != target {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			continue
		}
		return pid, strings.TrimSpace(string(comm))
	}
	return 0, ""
}
