package notify

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCommand(t *testing.T) {
	for sign, want := range map[string]string{
		"":                     "systemctl restart pptpalg",
		"run/openrc/softlevel": "rc-service pptpalg restart",
		"sbin/procd":           "/etc/init.d/pptpalg restart",
	} {
		root := t.TempDir()
		if sign != "" {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, sign)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, sign), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if got := commandIn(root, "restart"); got != want {
			t.Errorf("with %q: %q, want %q", sign, got, want)
		}
	}
}
