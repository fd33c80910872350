package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A lab's name is prefix-PID-START-N: the process that owns it, the clock tick
// at which that process started (a PID alone may be used again), and a number.
const prefix = "pptplab"

func ownName(n int64) (string, error) {
	start, err := startTime(os.Getpid())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s-%d-%s-%d", prefix, os.Getpid(), start, n), nil
}

// startTime returns field 22 of proc_pid_stat(5), in clock ticks since boot.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("read start time: %w", err)
	}
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the name before it may hold anything
	if len(fields) < 20 {
		return "", fmt.Errorf("read start time: %q is too short", text)
	}
	return fields[19], nil
}

// Sweep removes namespaces, processes and files of labs whose owner was killed.
// Labs of living processes stay.
func Sweep() error {
	var errs []error
	for _, path := range stale(namespaces) {
		errs = append(errs, removeNamespace(path))
	}
	for _, path := range stale(os.TempDir()) {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep dead labs: %w", err)
	}
	return nil
}

// stale lists what in a directory belongs to a dead lab.
func stale(dir string) []string {
	found, err := filepath.Glob(filepath.Join(dir, prefix+"-*"))
	if err != nil {
		return nil // the pattern is a constant
	}
	var dead []string
	for _, path := range found {
		if orphaned(filepath.Base(path)) {
			dead = append(dead, path)
		}
	}
	return dead
}

func orphaned(name string) bool {
	parts := strings.Split(name, "-")
	if len(parts) < 4 {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil {
		return false
	}
	start, err := startTime(pid)
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || err == nil && start != parts[2]
}

// removeNamespace kills the processes of a named namespace and removes its name;
// the kernel removes the rest. One that is gone already is no error.
func removeNamespace(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("stat namespace: %w", err)
	}
	if err := killInside(st); err != nil {
		return err
	}
	// EINVAL: nothing is mounted, as when a run was killed between the two steps.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !gone(err) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !gone(err) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// killInside kills every process in a namespace and waits until none is left, so
// that their sockets are closed too.
func killInside(ns unix.Stat_t) error {
	var err error
	timeout := Poll(Patience, func() bool {
		left := inside(ns)
		for _, pid := range left {
			if e := syscall.Kill(pid, syscall.SIGKILL); e != nil && !errors.Is(e, syscall.ESRCH) {
				err = fmt.Errorf("kill process %d: %w", pid, e)
			}
		}
		return len(left) == 0
	})
	return errors.Join(timeout, err)
}

// inside lists the processes of a namespace, without the caller: its main thread
// may be there for the moment of a Do.
func inside(ns unix.Stat_t) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/net", &st) == nil && st.Ino == ns.Ino && st.Dev == ns.Dev {
			pids = append(pids, pid)
		}
	}
	return pids
}
