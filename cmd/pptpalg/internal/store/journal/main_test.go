package journal

import (
	"os"
	"testing"
)

// TestMain has the journals of the tests in memory, if that is possible: on a disk that others keep busy a write takes
// longer than the journal is patient.
func TestMain(m *testing.M) {
	if _, err := os.Stat("/dev/shm"); err == nil {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}
