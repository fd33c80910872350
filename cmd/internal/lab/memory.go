package lab

import (
	"fmt"
	"os"
)

// MemoryDir makes a directory for what etcd and the daemon write and wait for, in memory if that is possible: a disk
// that others keep busy has them hang for seconds. Any user may read it. The caller must remove it.
func MemoryDir() (string, error) {
	const pattern = "pptpalg-"
	dir, err := os.MkdirTemp("/dev/shm", pattern)
	if err != nil {
		dir, err = os.MkdirTemp("", pattern)
	}
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}
