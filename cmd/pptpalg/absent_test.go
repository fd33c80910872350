package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
)

// TestAbsence: why no daemon answers, and what keeps it from starting.
func TestAbsence(t *testing.T) {
	fault := check.Findings{{Check: "nat", Result: check.Problem, Found: "no NAT", Remedy: "add it"}, {Check: "configuration", Result: check.Problem, Found: "x.yaml:2: unknown key", Remedy: "mend x.yaml"}}
	for _, tt := range []struct {
		name         string
		err          error
		found        check.Findings
		code, text   string
		advice, told string
		exit         int
	}{
		{"none runs", fmt.Errorf("%w: no socket", admin.ErrNotRunning), nil, "daemon_stopped", "no daemon is running: new calls are not edited", "systemctl start pptpalg", "", 3},
		{"none can start", admin.ErrNotRunning, fault, "daemon_stopped", "no daemon is running: new calls are not edited; x.yaml:2: unknown key", "mend x.yaml && systemctl start pptpalg", "configuration", 3},
		{"it hangs", fmt.Errorf("ask: %w", context.DeadlineExceeded), fault, "daemon_silent", "the daemon runs, but has not answered for 8s: it hangs, or gets no CPU time", "systemctl restart pptpalg", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			away, err := answering(t.Context(), answerTime, func(context.Context) error { return tt.err })
			must(t, err)
			away.because(tt.found)
			if away.Code != tt.code || away.Text != tt.text || away.Advice != tt.advice || away.told != tt.told || exitCode(away.verdict("status")) != tt.exit {
				t.Errorf("%+v", away)
			}
		})
	}
	if away, err := answering(t.Context(), answerTime, func(context.Context) error { return os.ErrPermission }); away != nil || err == nil {
		t.Errorf("without rights: %v, %v", away, err)
	}
	if away, err := answering(t.Context(), answerTime, func(context.Context) error { return nil }); away != nil || err != nil {
		t.Errorf("it answers: %v, %v", away, err)
	}
}
