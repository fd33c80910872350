package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultDir is where the BPF file system with the pins is mounted.
const DefaultDir = "/run/pptpalg-bpf"

const mapsDir = "maps"

// folder returns the folder of the calling thread's network namespace. A namespace's cookie
// is its own until the machine starts again; kernels before 5.14 have only its inode.
func folder(dir string) (string, error) {
	if dir == "" {
		dir = DefaultDir
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("ask for the network namespace: %w", err)
	}
	defer unix.Close(s)
	if cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return filepath.Join(dir, fmt.Sprintf("ns_%d", cookie)), nil
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("ask for the network namespace: %w", err)
	}
	return filepath.Join(dir, fmt.Sprintf("inode_%d", st.Ino)), nil
}

// mountSource is by what our BPF file system is known.
const mountSource = "pptpalg"

// mount has a BPF file system at dir, for a group.
func mount(dir string, group int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if uint32(st.Type) != unix.BPF_FS_MAGIC {
		if err := unix.Mount(mountSource, dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0750"); err != nil {
			return fmt.Errorf("mount a BPF file system at %s: %w", dir, err)
		}
	}
	return give(dir, group, 0o750)
}

// unmount removes our BPF file system from dir if no network namespace has a folder there.
// The kernel may have files of its own in it.
func unmount(dir string) error {
	rest, err := os.ReadDir(dir)
	if err != nil || slices.ContainsFunc(rest, os.DirEntry.IsDir) || !mountedHere(dir) {
		return nil
	}
	if err := unix.Unmount(dir, 0); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// mountedHere reports whether mount has mounted dir, whose path may lead over links.
func mountedHere(dir string) bool {
	point, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false
	}
	point = escaped.Replace(point)
	for line := range strings.Lines(string(mounts)) {
		// ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS] - TYPE SOURCE OPTIONS
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); len(f) > 4 && f[4] == point && strings.HasPrefix(after, "bpf "+mountSource+" ") {
			return true
		}
	}
	return false
}

// escaped writes a path as mountinfo does.
var escaped = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)

// give gives a file to root and a group.
func give(path string, group int, mode os.FileMode) error {
	return errors.Join(os.Chown(path, 0, group), os.Chmod(path, mode))
}
