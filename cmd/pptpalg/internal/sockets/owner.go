package sockets

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listening is the state of a socket that listens (TCP_LISTEN of the kernel's tcp_states.h).
const listening = "0A"

// Owner names the process that has a listener which keeps others from an address: its name and
// its number. It is "" where there is none, or the caller may not see it. It looks at the
// network namespace of the calling thread.
func Owner(addr *net.TCPAddr) string {
	sockets := make(map[string]bool) // as /proc/PID/fd names them
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + table)
		if err != nil {
			continue // without IPv6 there is no second one
		}
		for line := range strings.Lines(string(text)) {
			if inode, ok := listener(strings.Fields(line), addr); ok {
				sockets["socket:["+inode+"]"] = true
			}
		}
	}
	if len(sockets) == 0 {
		return ""
	}
	return holder(sockets)
}

// listener returns the inode of a line of /proc/net/tcp (proc_pid_net(5)), if that is a socket
// which listens and keeps others from an address.
func listener(field []string, addr *net.TCPAddr) (inode string, ok bool) {
	const local, state, node = 1, 3, 9
	if len(field) <= node || field[state] != listening {
		return "", false
	}
	host, port, _ := strings.Cut(field[local], ":")
	if n, err := strconv.ParseUint(port, 16, 16); err != nil || int(n) != addr.Port {
		return "", false
	}
	ip, err := hex.DecodeString(host)
	if err != nil {
		return "", false
	}
	for word := range slices.Chunk(ip, 4) { // each is one number, in the machine's order
		binary.BigEndian.PutUint32(word, binary.NativeEndian.Uint32(word))
	}
	bound := net.IP(ip)
	every := bound.IsUnspecified() || addr.IP == nil || addr.IP.IsUnspecified()
	return field[node], every || bound.Equal(addr.IP)
}

// holder names the process that has one of the sockets open. Files of others are root's to see.
func holder(sockets map[string]bool) string {
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, f := range files {
		if to, err := os.Readlink(f); err != nil || !sockets[to] {
			continue
		}
		process := filepath.Dir(filepath.Dir(f))
		name, _ := os.ReadFile(filepath.Join(process, "comm"))
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), filepath.Base(process))
	}
	return ""
}
