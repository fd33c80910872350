package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel tells of the tables of iptables-legacy by getsockopt (linux/netfilter_ipv4/ip_tables.h).
// That costs a system call, where a program costs milliseconds. To ask for a table that is not
// there makes the kernel load its module, so only those are asked for that the kernel names.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO
	soGetEntries = 65 // IPT_SO_GET_ENTRIES
	nameLength   = 32 // XT_TABLE_MAXNAMELEN
	infoLength   = 84 // struct ipt_getinfo
	infoSizeAt   = 80 // its field size
)

// legacyNames has the names of the legacy tables that exist in this network namespace.
const legacyNames = "/proc/thread-self/net/ip_tables_names"

// legacyTables returns them. An error means that only root may know.
func legacyTables() ([]string, error) {
	text, err := os.ReadFile(legacyNames)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no module ip_tables
	}
	if err != nil {
		return nil, fmt.Errorf("list tables of iptables-legacy: %w", err)
	}
	return strings.Fields(string(text)), nil
}

// legacyInfo returns what the kernel says of each table: its number of rules above all.
func legacyInfo() (string, error) {
	names, err := legacyTables()
	if err != nil || len(names) == 0 {
		return "", err
	}
	var all strings.Builder
	err = withSocket(func(fd int) error {
		for _, name := range names {
			info, err := tableInfo(fd, name)
			if err != nil {
				return err
			}
			all.Write(info)
		}
		return nil
	})
	return all.String(), err
}

// legacyHas reports whether iptables-legacy has a chain in table mangle.
func legacyHas(chain string) (found bool, err error) {
	names, err := legacyTables()
	if err != nil || !slices.Contains(names, marker) {
		return false, err
	}
	err = withSocket(func(fd int) error {
		entries, err := tableEntries(fd, marker)
		found = bytes.Contains(entries, append([]byte(chain), 0))
		return err
	})
	return found, err
}

// LegacyQueues reports whether a rule of iptables-legacy sends packets to a queue.
func LegacyQueues(number uint16) (bool, error) {
	names, err := legacyTables()
	if err != nil || len(names) == 0 {
		return false, err
	}
	found := false
	err = withSocket(func(fd int) error {
		for _, name := range names {
			entries, err := tableEntries(fd, name)
			if err != nil {
				return err
			}
			found = found || queuesIn(entries, number)
		}
		return nil
	})
	return found, err
}

// queuesIn looks for targets NFQUEUE in a table's rules. A target is its size, its name in 29
// bytes, and its revision; what follows begins with the first queue, and from revision 1 on the
// number of queues (linux/netfilter/xt_NFQUEUE.h).
func queuesIn(entries []byte, number uint16) bool {
	name := []byte("NFQUEUE\x00")
	for {
		i := bytes.Index(entries, name)
		if i < 0 || len(entries) < i+34 {
			return false
		}
		target := entries[i:]
		first, total := binary.NativeEndian.Uint16(target[30:]), uint16(1)
		if revision := target[29]; revision > 0 {
			total = binary.NativeEndian.Uint16(target[32:])
		}
		if number >= first && int(number) < int(first)+int(total) {
			return true
		}
		entries = entries[i+len(name):]
	}
}

func withSocket(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	return do(fd)
}

func tableInfo(fd int, name string) ([]byte, error) {
	b := make([]byte, infoLength)
	copy(b[:nameLength-1], name)
	return b, getsockopt(fd, soGetInfo, b, name)
}

// tableEntries returns a table's rules: behind its name and size, padded to 40 bytes.
func tableEntries(fd int, name string) ([]byte, error) {
	info, err := tableInfo(fd, name)
	if err != nil {
		return nil, err
	}
	size := binary.NativeEndian.Uint32(info[infoSizeAt:])
	b := make([]byte, 40+size)
	copy(b[:nameLength-1], name)
	binary.NativeEndian.PutUint32(b[nameLength:], size)
	return b[40:], getsockopt(fd, soGetEntries, b, name)
}

func getsockopt(fd, option int, b []byte, table string) error {
	length := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return fmt.Errorf("read table %s of iptables-legacy: %w", table, errno)
	}
	return nil
}
