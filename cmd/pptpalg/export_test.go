package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// TestExport has a daemon tell a journal of a call, and of what it could not deliver.
func TestExport(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(1))
	socket := filepath.Join(t.TempDir(), "socket")
	target := "journald://" + socket
	journal, err := net.ListenPacket("unixgram", socket)
	must(t, err)
	t.Cleanup(func() { _ = journal.Close() })
	g.start("--export", target+",syslog+tcp://127.0.0.1:1")
	g.server(lab.Behaviour{})
	call := callOn(t, g.client(0), 7)
	exchange(t, call)
	must(t, call.Clear())
	for _, event := range []string{"opened", "translated", "closed"} {
		b := make([]byte, 4096)
		must(t, journal.SetReadDeadline(time.Now().Add(lab.Patience)))
		n, _, err := journal.ReadFrom(b)
		must(t, err)
		for _, line := range []string{"PPTPALG_EVENT=" + event, "PPTPALG_CLIENT=" + g.Inside[0].Addr.String() + ":", "PPTPALG_CLIENT_PUBLIC=" + lab.GatewayPublic.String() + ":", "PPTPALG_CLIENT_CALL_ID=7"} {
			if !strings.Contains(string(b[:n]), "\n"+line) {
				t.Errorf("%s is not in\n%s", line, b[:n])
			}
		}
	}
	for series, want := range map[string]string{
		fmt.Sprintf("pptpalg_export_delivered_total{collector=%q}", target):             "3",
		fmt.Sprintf("pptpalg_export_up{collector=%q}", target):                          "1",
		fmt.Sprintf("pptpalg_export_lag_seconds{collector=%q}", target):                 "0",
		fmt.Sprintf("pptpalg_export_waiting{collector=%q}", "syslog+tcp://127.0.0.1:1"): "3",
		fmt.Sprintf("pptpalg_export_up{collector=%q}", "syslog+tcp://127.0.0.1:1"):      "0",
	} {
		if err := lab.Poll(lab.Patience, func() bool { return g.metric(series) == want }); err != nil {
			t.Errorf("%s is %s, want %s", series, g.metric(series), want)
		}
	}
	g.stop()
}

func TestExportsAreChecked(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"export: [syslog+udp://192.0.2.1, journald]\n", ""},
		{"export: journald,journald\n", "journald is given twice"},
		{"export: [syslog://192.0.2.1]\n", "does not begin with one of"},
		{"export: [\"syslog+udp://192.0.2.1?port=1\"]\n", `has no option "port"`},
	} {
		code, _, stderr := pptpalg(t, "check-config", configured(t, tt.text))
		if (code == 0) != (tt.want == "") || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d: %s", tt.text, code, stderr)
		}
	}
}
