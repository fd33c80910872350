package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"pptpalg/cmd/internal/lab"
)

// asProgram in the environment has the test binary act as pptpalg itself, so that
// tests can start, signal and kill a process of its own.
const asProgram = "PPTPALG_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if lab.StandIn() {
		return
	}
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// pptpalg runs a command line in this process.
func pptpalg(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(context.Background(), env{
		args: args, stdout: &out, stderr: &errs,
		lookup: func(string) (string, bool) { return "", false },
	})
	return code, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"version", []string{"version"}, 0, "pptpalg ", ""},
		{"help", []string{"--help"}, 0, "Usage:", ""},
		{"help of run", []string{"run", "--help"}, 0, "--queue", ""},
		{"completion", []string{"completion", "bash"}, 0, "bash completion", ""},
		{"rules", []string{"rules", "print", "--queue", "9", "--ports", "1723,1724"}, 0, "--queue-num 9 --queue-bypass", ""},
		{"nft rules", []string{"rules", "print", "--format", "nft", "--config", ""}, 0, "queue num 1723 bypass", ""},
		{"wrong format", []string{"rules", "print", "--format", "x"}, 1, "", "is neither iptables nor nft"},
		{"no daemon", []string{"calls", "--state-dir", "/nonexistent"}, 1, "", "no daemon is running: cannot connect to /nonexistent"},
		{"unknown command", []string{"cals"}, 1, "", `unknown command "cals"`},
		{"wrong rules", []string{"run", "--rules", "maybe"}, 1, "", `"maybe" is none of auto, nft, iptables, none`},
		{"wrong port", []string{"run", "--ports", "70000"}, 1, "", "70000 is not a TCP port"},
		{"port twice", []string{"rules", "print", "--ports", "5,5"}, 1, "", "5 given twice"},
		{"the lock as a queue", []string{"run", "--queue", "61723"}, 1, "", "queue 61723 is the daemon's lock"},
		{"the lock as a GRE queue", []string{"run", "--gre-queue", "61722", "--gre-queues", "2"}, 1, "", "queue 61723 is the daemon's lock"},
		{"no address", []string{"cluster", "take", "::1"}, 1, "", `"::1" is not an IPv4 address`},
		{"wrong level", []string{"run", "--log-level", "loud"}, 1, "", "loud"},
		{"surplus argument", []string{"run", "now"}, 1, "", "unknown command"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := pptpalg(t, tt.args...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if code == 0 && stderr != "" {
				t.Errorf("stderr %q", stderr)
			}
		})
	}
}
