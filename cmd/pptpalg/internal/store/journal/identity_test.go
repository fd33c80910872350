package journal

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestIdentityOfANewNamespace: the kernel gives the inode of a namespace that is gone to a new
// one, which must not get the old one's calls.
func TestIdentityOfANewNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	dir := t.TempDir()
	ours, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	identities := map[string]string{} // by inode
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		inode, identity := inNewNamespace(t)
		old, again := identities[inode]
		if identities[inode] = identity; !again {
			continue
		}
		if old == identity || identity == ours {
			t.Fatalf("%s came again, and its identity too: %s", inode, identity)
		}
		j, _ := open(t, dir, old)
		if err := j.Append(keep(1), at); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if _, c := open(t, dir, identity); len(c.Calls) != 0 {
			t.Errorf("the new namespace got the calls of the old one: %v", c.Calls)
		}
		return
	}
	t.Fatal("no inode came again")
}

func TestIdentityStays(t *testing.T) {
	first, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Identity(); err != nil || second != first {
		t.Errorf("%q, %v, want %q", second, err, first)
	}
}

// inNewNamespace makes a namespace that goes with the thread that made it.
func inNewNamespace(t *testing.T) (inode, identity string) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			inode, err = os.Readlink("/proc/thread-self/ns/net")
		}
		if err == nil {
			identity, err = Identity()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return inode, identity
}
