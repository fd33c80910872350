// Package clock reads how much CPU time processes and threads have used, in
// nanoseconds: the scheduler's own count (sum_exec_runtime), which holds what a
// thread did in soft interrupts on the way as well.
package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// scheduler is CPUCLOCK_SCHED, the low bits of a clock ID that stands for a
// process's CPU time (linux/posix-timers_types.h, MAKE_PROCESS_CPUCLOCK).
const scheduler = 2

// Process is a process whose time is read: all its threads, ended ones too. It may
// be a thread of the kernel.
type Process int

// Used returns its CPU time. While one of its threads runs on another processor,
// what that thread has used since the last tick is missing (up to 10 ms).
func (p Process) Used() (time.Duration, error) { return read(int32(^int(p))<<3 | scheduler) }

// Thread returns the CPU time of the calling thread: lock the goroutine to it.
func Thread() (time.Duration, error) { return read(unix.CLOCK_THREAD_CPUTIME_ID) }

func read(id int32) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0, fmt.Errorf("read CPU clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// Sum returns the CPU time of several processes.
func Sum(processes []Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range processes {
		t, err := p.Used()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// SoftIRQ finds the kernel's ksoftirqd threads, one for each processor.
func SoftIRQ() ([]Process, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, fmt.Errorf("find ksoftirqd: %w", err)
	}
	var found []Process
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("find ksoftirqd: %w", err)
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && strings.HasPrefix(string(comm), "ksoftirqd/") {
			found = append(found, Process(pid))
		}
	}
	return found, nil
}
