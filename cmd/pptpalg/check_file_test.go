package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestCheckConfigurationFile: what is checked is what the daemon has from its file, and a
// file with which it would not start is a problem, whether it runs or not.
func TestCheckConfigurationFile(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	file := filepath.Join(t.TempDir(), "pptpalg.yaml")
	must(t, os.WriteFile(file, []byte("queue: 9\nports: [1723, 1724]\n"), 0o644))
	g.start("--config", file)
	code, found := g.check("--config", file)
	wantFinding(t, found["configuration"], check.OK, file)
	wantFinding(t, found["queue-owner"], check.OK, "queue 9 is bound by the running daemon")
	if code != 0 {
		t.Errorf("exit code %d, %+v", code, found)
	}

	must(t, os.WriteFile(file, []byte("queue: 9\nprots: 1724\n"), 0o644))
	code, found = g.check("--config", file)
	wantFinding(t, found["configuration"], check.Problem, file+`:2: unknown key "prots"`)
	if code != 1 || !strings.Contains(found["configuration"].Remedy, "pptpalg check-config "+file) {
		t.Errorf("with a fault: exit code %d, %+v", code, found["configuration"])
	}

	_, found = g.check("--config", "")
	wantFinding(t, found["configuration"], check.OK, "no configuration file")
}
