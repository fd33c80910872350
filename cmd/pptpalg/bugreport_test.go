package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// unpack returns the files of an archive by their names without the directory.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	zip, err := gzip.NewReader(f)
	must(t, err)
	all := make(map[string]string)
	for files := tar.NewReader(zip); ; {
		head, err := files.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		b, err := io.ReadAll(files)
		must(t, err)
		all[filepath.Base(head.Name)] = string(b)
	}
}

// TestBugreport makes a report of a gateway with a call, with its addresses and without.
func TestBugreport(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	config := configured(t, "max-calls: 77\nlisten: 127.0.0.1:9723\n")
	g.start("--config", config)
	g.server(lab.Behaviour{})
	exchange(t, callOn(t, g.client(0), 7))
	client, public := g.Inside[0].Addr.String(), lab.GatewayPublic.String()
	for _, keep := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "report.tar.gz")
		args := []string{"bugreport", file, "--state-dir", g.state, "--config", config}
		if keep {
			args = append(args, "--keep-addresses")
		}
		must(t, g.Gateway.Do(func() error {
			code, stdout, stderr := pptpalg(t, args...)
			if code != 0 || stderr != "" || !strings.Contains(stdout, "calls.json") || !strings.Contains(stdout, "\nWritten to "+file) {
				t.Errorf("exit %d: %s%s", code, stdout, stderr)
			}
			return nil
		}))
		all := unpack(t, file)
		for name, want := range map[string]string{
			"version.txt": versionText(), "status.txt": "1 established", "check.txt": "ip-forward", "pptpalg.yaml": "max-calls: 77", "configuration.txt": "\nmax-calls: 77\n",
			"command.txt": "run ", "calls.json": `"state": "established"`, "events.json": `"event":"translated"`, "fastpath.txt": "", "cluster.txt": "",
			"metrics.txt": "\npptpalg_calls 1\n", "rules.txt": "-j NFQUEUE", "firewall.txt": "MASQUERADE", "network.txt": "inet ", "kernel.txt": "/proc/sys/net/ipv4/ip_forward:\n1\n", "log.txt": "",
		} {
			text, there := all[name]
			if !there || !strings.Contains(text, want) {
				t.Errorf("%s, %t: %q is not in\n%.2000s", name, there, want, text)
			}
			if !keep && (strings.Contains(text, client) || strings.Contains(text, public)) {
				t.Errorf("%s has an address:\n%s", name, text)
			}
		}
		if strings.Contains(all["calls.json"], client) != keep || strings.Contains(all["firewall.txt"], "10.77.0.0/24") != keep {
			t.Errorf("addresses are to stay: %v:\n%s", keep, all["calls.json"])
		}
		if code, _, stderr := pptpalg(t, "bugreport", file); code != 2 || !strings.Contains(stderr, "already exists") {
			t.Errorf("over another report: exit %d: %s", code, stderr)
		}
	}
}
