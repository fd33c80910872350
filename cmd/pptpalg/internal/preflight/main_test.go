package preflight

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needRoot skips a test that makes namespaces, or fails it where skipping is forbidden.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("not root, and PPTPALG_NO_SKIP is set")
	}
	t.Skip("needs root for network namespaces")
}
