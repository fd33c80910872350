//go:build !noreplay

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"pptpalg/cmd/pptpalg/internal/replay"
)

const labNAT = "10.77.0.0/24=203.0.113.1"

func captured(name string) string { return filepath.Join(captures, name+".pcap") }

func TestReplay(t *testing.T) {
	dir := t.TempDir()
	cut := filepath.Join(dir, "cut.pcap")
	b, err := os.ReadFile(captured("hangup-lan"))
	must(t, err)
	must(t, os.WriteFile(cut, b[:len(b)/2], 0o644))
	tests := []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"plain", []string{captured("hangup-lan")}, 0, "Outgoing-Call-Request             7 ", ""},
		{"translated", []string{captured("hangup-lan"), "--nat", labNAT}, 0, "7 → 255", ""},
		{"other ports", []string{captured("hangup-lan"), "--ports", "1724"}, 0, ": 0 of control connections, 6 GRE, ", ""},
		{"truncated", []string{cut}, 1, "Outgoing-Call-Request", "cut.pcap: packet 16: the file ends in the middle of it"},
		{"no file", []string{filepath.Join(dir, "none.pcap")}, 1, "", "none.pcap: no such file"},
		{"no capture", []string{"replay.go"}, 1, "", "pptpalg: replay replay.go: it is not a capture: neither pcap nor pcapng\n"},
		{"no argument", nil, 2, "", "FILE is missing"},
		{"wrong NAT", []string{captured("hangup-lan"), "--nat", "10.0.0.0/24"}, 2, "", "read --nat: "},
		{"NAT twice", []string{captured("hangup-lan"), "--nat", "10.0.0.0/24=1.2.3.4", "--nat", "10.0.0.1/24=1.2.3.5"}, 2, "", "10.0.0.0/24 is given twice"},
		{"wrong port", []string{captured("hangup-lan"), "--ports", "70000"}, 2, "", "70000 is not a TCP port"},
		{"write over itself", []string{cut, "--write", filepath.Join(dir, ".", "cut.pcap")}, 1, "", "the file is the capture itself"},
		{"write nowhere", []string{cut, "--write", filepath.Join(dir, "none", "out.pcap")}, 1, "", "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := pptpalg(t, append([]string{"replay"}, tt.args...)...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) || (code == 0) != (stderr == "") {
				t.Errorf("exit %d, stderr %q, stdout\n%s", code, stderr, stdout)
			}
			if tt.code != 0 && tt.stdout == "" && stdout != "" {
				t.Errorf("of nothing it prints\n%s", stdout)
			}
		})
	}
	if after, err := os.ReadFile(cut); err != nil || len(after) != len(b)/2 {
		t.Errorf("the capture was written to: %d bytes, %v", len(after), err)
	}
}

func TestReplayWrites(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.pcap")
	code, _, stderr := pptpalg(t, "replay", captured("several-lan"), "--nat", labNAT, "--write", out)
	if code != 0 {
		t.Fatal(stderr)
	}
	_, stdout, _ := pptpalg(t, "replay", out)
	for _, want := range []string{"203.0.113.1:", "Incoming-Call-Request             254", "PAC  203.0.113.1   Call ID 254  GRE to it: 3 packets, 144 bytes"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("outside, %q is missing in\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "10.77.") || strings.Contains(stdout, "GRE of no call") {
		t.Errorf("outside:\n%s", stdout)
	}
}

// TestReplayStdin reads a file and a pipe as standard input.
func TestReplayStdin(t *testing.T) {
	was := os.Stdin
	defer func() { os.Stdin = was }()
	want := func(name string) {
		t.Helper()
		_, whole, _ := pptpalg(t, "replay", captured("hangup-lan"))
		if code, stdout, stderr := pptpalg(t, "replay", "-"); code != 0 || stdout != whole {
			t.Errorf("%s: exit %d, stderr %q, stdout\n%s", name, code, stderr, stdout)
		}
	}
	file, err := os.Open(captured("hangup-lan"))
	must(t, err)
	defer file.Close()
	os.Stdin = file
	want("a file")
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	b, err := os.ReadFile(captured("hangup-lan"))
	must(t, err)
	_, err = w.Write(b) // it fits into the pipe
	must(t, err)
	must(t, w.Close())
	os.Stdin = r
	want("a pipe")
}

// TestReplayInterrupted stops in the middle of a file and tells what was read.
func TestReplayInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	var out, errs bytes.Buffer
	code := execute(ctx, env{args: []string{"replay", captured("hangup-lan")}, stdout: &out, stderr: &errs, lookup: func(string) (string, bool) { return "", false }})
	if code != 1 || !strings.Contains(errs.String(), "interrupted") || !strings.Contains(out.String(), "0 packets") {
		t.Errorf("exit %d, %s%s", code, &errs, &out)
	}
}

func TestReplayJSON(t *testing.T) {
	_, stdout, _ := pptpalg(t, "replay", captured("hangup-lan"), "--nat", labNAT, "--json")
	keeps(t, "replay", stdout)
	var r struct{ Calls []replay.Call }
	must(t, json.Unmarshal([]byte(stdout), &r))
	if len(r.Calls) != 2 || r.Calls[1].PNS.PublicCallID == nil || *r.Calls[1].PNS.PublicCallID != 255 || r.Calls[1].Ended.Cause != "cleared" {
		t.Errorf("%s", stdout)
	}
}

// TestReplayYAML: it is the same as JSON.
func TestReplayYAML(t *testing.T) {
	for _, args := range [][]string{{captured("hangup-lan"), "--nat", labNAT}, {captured("hangup-lan"), "--ports", "9"}} {
		args = append([]string{"replay"}, args...)
		_, asJSON, _ := pptpalg(t, append(args, "-o", "json")...)
		code, asYAML, stderr := pptpalg(t, append(args, "-o", "yaml")...)
		var want, got any
		decode(t, asJSON, &want)
		must(t, yaml.Unmarshal([]byte(asYAML), &got))
		back, err := json.Marshal(got)
		must(t, err)
		got = nil
		decode(t, string(back), &got)
		if diff := cmp.Diff(want, got); diff != "" || code != 0 {
			t.Errorf("exit %d: %s(-JSON +YAML)\n%s", code, stderr, diff)
		}
	}
}

// TestReplayHelp: the example in the help was really run. An ellipsis stands for
// any lines.
func TestReplayHelp(t *testing.T) {
	_, example, _ := strings.Cut(replayHelp, "$ pptpalg replay lan.pcap --nat "+labNAT+"\n")
	_, rest, _ := pptpalg(t, "replay", captured("hangup-lan"), "--nat", labNAT)
	for line := range strings.Lines(example) {
		line = strings.TrimRight(strings.TrimPrefix(line, "  "), "\n")
		if line == "" || line == "…" {
			continue
		}
		_, after, found := strings.Cut(rest, line+"\n")
		if !found {
			t.Fatalf("the command does not print %q here:\n%s", line, rest)
		}
		rest = after
	}
	if rest != "" || !strings.Contains(example, "Call 2") {
		t.Errorf("the example ends before this:\n%s", rest)
	}
}
