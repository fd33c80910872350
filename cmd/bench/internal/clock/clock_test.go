package clock

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestUsed(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self := []Process{Process(os.Getpid())}
	before, err := Sum(self)
	if err != nil {
		t.Fatal(err)
	}
	from, err := Thread()
	if err != nil {
		t.Fatal(err)
	}
	for {
		now, err := Thread()
		if err != nil {
			t.Fatal(err)
		}
		if now-from >= 5*time.Millisecond {
			break
		}
	}
	after, err := Sum(self)
	if err != nil {
		t.Fatal(err)
	}
	if after-before < 5*time.Millisecond {
		t.Errorf("a thread has worked for 5 ms, its process for %v", after-before)
	}
}

func TestSoftIRQ(t *testing.T) {
	found, err := SoftIRQ()
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 && os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("no ksoftirqd is found")
	}
	if len(found) == 0 {
		t.Skip("no ksoftirqd to be seen, as in a PID namespace of its own")
	}
	if _, err := Sum(found); err != nil {
		t.Error(err)
	}
}
