package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// describe writes what the figures were taken on.
func (r *report) describe() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("describe machine: %w", err)
	}
	r.table([]string{"machine", ""}, [][]string{
		{"processor", field("/proc/cpuinfo", "model name")},
		{"processors", fmt.Sprint(runtime.NumCPU())},
		{"memory", field("/proc/meminfo", "MemTotal")},
		{"kernel", unix.ByteSliceToString(name.Release[:]) + ", " + unix.ByteSliceToString(name.Machine[:])},
		{"conntrack buckets", contents("/proc/sys/net/netfilter/nf_conntrack_buckets")},
		{"Go", runtime.Version()},
		{"load average before the run", lastMinute(contents("/proc/loadavg"))},
	})
	return nil
}

// lastMinute returns the first of the averages of /proc/loadavg.
func lastMinute(average string) string {
	minute, _, _ := strings.Cut(average, " ")
	return minute
}

// field returns what a file of lines "name: value" says of name.
func field(path, name string) string {
	for line := range strings.Lines(contents(path)) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "unknown"
}

func contents(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
