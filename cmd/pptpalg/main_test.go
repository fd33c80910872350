package main

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
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
		{"--version", []string{"--version"}, 0, versionText() + "\n", ""},
		{"help", []string{"--help"}, 0, "Usage:", ""},
		{"help of run", []string{"run", "--help"}, 0, "--queue", ""},
		{"completion", []string{"completion", "bash"}, 0, "bash completion", ""},
		{"rules", []string{"rules", "print", "--queue", "9", "--ports", "1723,1724"}, 0, "--queue-num 9 --queue-bypass", ""},
		{"nft rules", []string{"rules", "print", "--format", "nft", "--config", ""}, 0, "queue num 1723 bypass", ""},
		{"no daemon", []string{"calls", "--state-dir", "/nonexistent"}, 1, "", "no daemon is running: cannot connect to /nonexistent"},
		{"a file for a directory", []string{"calls", "--state-dir", "/etc/passwd"}, 1, "", "no daemon is running: --state-dir: /etc/passwd is not a directory\n"},
		{"status of a file", []string{"status", "--check=false", "--state-dir", "/etc/passwd"}, 3, "STOPPED: no daemon is running: --state-dir: /etc/passwd is not a directory", ""},
		{"wrong format", []string{"rules", "print", "--format", "x"}, 2, "", "is neither iptables nor nft"},
		{"unknown command", []string{"cals"}, 2, "", "unknown command \"cals\" for \"pptpalg\"\n\nDid you mean this?\n\tcalls\nSee \"pptpalg --help\".\n"},
		{"unknown command of a group", []string{"rules", "lod"}, 2, "", "unknown command \"lod\" for \"pptpalg rules\"; did you mean \"load\"?\nSee \"pptpalg rules --help\".\n"},
		{"unknown flag", []string{"calls", "--wath"}, 2, "", "pptpalg: unknown flag --wath; did you mean --watch?\nSee \"pptpalg calls --help\".\n"},
		{"flag without a value", []string{"run", "--queue"}, 2, "", "--queue needs a value; use a whole number from 0 to 65535\n"},
		{"flags that exclude each other", []string{"calls", "--watch", "--json"}, 2, "", "pptpalg: --json and --watch cannot be used together\nSee \"pptpalg calls --help\".\n"},
		{"two forms", []string{"calls", "--json", "-o", "wide"}, 2, "", "--json and --output cannot be used together"},
		{"two times", []string{"events", "--at", "1h", "--since", "2h"}, 2, "", "--at and --since cannot be used together"},
		{"a follower of a file", []string{"events", "--file", "x", "--follow"}, 2, "", "--file and --follow cannot be used together"},
		{"unknown shell", []string{"completion", "foo"}, 2, "", "unknown command \"foo\" for \"pptpalg completion\""},
		{"unknown help", []string{"help", "frob"}, 2, "", "unknown command \"frob\" for \"pptpalg\""},
		{"unknown help of a group", []string{"help", "calls", "ned"}, 2, "", "unknown command \"ned\" for \"pptpalg calls\"; did you mean \"end\"?"},
		{"help of a command", []string{"help", "calls", "end"}, 0, "pptpalg calls end CALL...", ""},
		{"report without a name", []string{"bugreport", ""}, 2, "", "FILE is empty"},
		{"report of fewer than no lines", []string{"bugreport", "--log-lines", "-1"}, 2, "", "--log-lines: \"-1\" is not valid: less than 0"},
		{"event log without a name", []string{"events", "--file", ""}, 2, "", "--file: \"\" is not valid; use the name of an event log"},
		{"capture without a name", []string{"replay", ""}, 2, "", "FILE is empty"},
		{"wrong rules", []string{"run", "--rules", "maybe"}, 2, "", `--rules: "maybe" is not valid; use auto, nft, iptables or none`},
		{"wrong number", []string{"run", "--queue", "x"}, 2, "", `--queue: "x" is not valid; use a whole number from 0 to 65535`},
		{"too large a number", []string{"run", "--queue", "70000"}, 2, "", `--queue: "70000" is not valid; use a whole number from 0 to 65535`},
		{"wrong time", []string{"run", "--rest", "5"}, 2, "", `--rest: "5" is not valid; use a duration with its unit`},
		{"wrong address to listen on", []string{"run", "--listen", "here"}, 2, "", `--listen: "here" is not valid; use ADDRESS:PORT`},
		{"wrong port", []string{"run", "--ports", "70000"}, 2, "", "70000 is not a TCP port"},
		{"port twice", []string{"rules", "print", "--ports", "5,5"}, 2, "", "5 given twice"},
		{"the lock as a queue", []string{"run", "--config", "", "--queue", "61723"}, 2, "", "queue 61723 is the daemon's lock"},
		{"the lock as a GRE queue", []string{"run", "--config", "", "--gre-queue", "61722", "--gre-queues", "2"}, 2, "", "queue 61723 is the daemon's lock"},
		{"no address", []string{"cluster", "take", "::1"}, 2, "", `"::1" is not an IPv4 address`},
		{"no address to explain", []string{"explain", "x"}, 2, "", `"x" is not an IPv4 address`},
		{"wrong level", []string{"run", "--log-level", "loud"}, 2, "", `--log-level: "loud" is not valid; use debug, info, warn or error`},
		{"surplus argument", []string{"run", "now"}, 2, "", `unexpected argument "now"`},
		{"missing argument", []string{"cluster", "take"}, 2, "", "pptpalg: ADDRESS is missing\nSee \"pptpalg cluster take --help\".\n"},
		{"nobody to explain", []string{"explain"}, 2, "", "pptpalg: CLIENT is missing: give the inside address of a client or server, or --all\n"},
		{"wrong group", []string{"fastpath", "load", "--config", "", "--fastpath", "tc", "--group", "nobody-here"}, 2, "", `--group: this system has no group "nobody-here"`},
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

// TestNoGoTexts: whatever value a flag is given, no error is in the words of Go's packages.
func TestNoGoTexts(t *testing.T) {
	newSettings("").flags.VisitAll(func(f *pflag.Flag) {
		for _, value := range []string{"x", "-1", "99999999999999999999", "1.2.3", ":", "[", "\x00"} {
			_, _, stderr := pptpalg(t, "check-config", configured(t, f.Name+": "+strconv.Quote(value)+"\n"))
			for _, bad := range []string{"strconv", "Parse", "invalid syntax", "out of range", "time: ", "slog", "lookup ", "missing port", "address "} {
				if strings.Contains(stderr, bad) && !strings.Contains(f.Usage, bad) {
					t.Errorf("%q in %s", bad, stderr)
				}
			}
		}
	})
}

// TestCompletion: the shell completes the values of flags that have a set of them, and files
// only where files are wanted.
func TestCompletion(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"run --datapath ", "auto\nkernel\nqueue\n:36\n"},
		{"check --rules ", "auto\nnft\niptables\nnone\n:36\n"},
		{"run --status-page ", "auto\non\noff\n:36\n"},
		{"run --log-level ", "debug\ninfo\nwarn\nerror\n:36\n"},
		{"rules load --rules ", "auto\nnft\niptables\n:36\n"},
		{"rules print --format ", "iptables\nnft\n:36\n"},
		{"calls --output ", "table\nwide\njson\nyaml\n:36\n"},
		{"calls -o ", "table\nwide\njson\nyaml\n:36\n"},
		{"calls --sort ", "age\nclient\nnumber\nrate\nserver\nstate\n:36\n"},
		{"calls --sort -", "-age\n-client\n-number\n-rate\n-server\n-state\n:36\n"},
		{"calls --sort=-", "-age\n-client\n-number\n-rate\n-server\n-state\n:36\n"},
		{"run --reset-lost=", "true\nfalse\n:36\n"},
		{"run --queue ", ":36\n"},
		{"run --config ", ":0\n"},
		{"run --state-dir ", ":16\n"},
	} {
		code, stdout, _ := pptpalg(t, append([]string{"__complete"}, strings.Split(tt.args, " ")...)...)
		if code != 0 || stdout != tt.want {
			t.Errorf("%s: exit %d, %q, want %q", tt.args, code, stdout, tt.want)
		}
	}
}
