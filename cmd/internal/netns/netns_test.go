package netns

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPlace: a namespace has nothing but its own loopback interface, and none of the
// process's threads is in it once it is closed.
func TestPlace(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("PPTPALG_NO_SKIP") != "" {
			t.Fatal("not root, and PPTPALG_NO_SKIP is set")
		}
		t.Skip("needs root for network namespaces")
	}
	before := namespaces(t)
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	err = p.Do(func() error {
		all, err := net.Interfaces()
		if len(all) != 1 {
			t.Errorf("interfaces: %v", all)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if got := namespaces(t); got != before+1 {
		t.Errorf("%d namespaces among the threads, %d before", got, before)
	}
	p.Close()
	// The thread ends a little after its goroutine.
	for deadline := time.Now().Add(10 * time.Second); namespaces(t) > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d namespaces among the threads, %d before", namespaces(t), before)
		}
	}
}

// namespaces counts those that the process's threads are in.
func namespaces(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, link := range tasks {
		if to, err := os.Readlink(link); err == nil {
			seen[to] = true
		}
	}
	return len(seen)
}
