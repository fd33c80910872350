package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func TestManualPages(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := pptpalg(t, "man", dir); code != 0 {
		t.Fatal(stderr)
	}
	tests := []struct {
		page string
		want []string
	}{
		{"pptpalg.8", []string{".TH \"PPTPALG\" 8", "pptpalg \\- PPTP NAT editor", "\\fBrules\\fR", "pptpalg\\-run (8)"}},
		{"pptpalg-run.8", []string{".B pptpalg run [flags]", "\\fB\\-\\-queue\\fR \\fIuint16\\fR\nNFQUEUE number of control connections. Default: 1723.", "\\fB\\-\\-idle\\-timeout\\fR"}},
		{"pptpalg-rules.8", []string{".B pptpalg rules COMMAND", "pptpalg\\-rules\\-load (8)"}},
		{"pptpalg-rules-load.8", []string{"\\fB\\-\\-gre\\-mark\\fR"}},
		{"pptpalg-check-config.8", []string{"[FILE]"}},
		{"pptpalg.yaml.5", []string{"\\fBmax\\-calls\\fR", "/etc/pptpalg/pptpalg.yaml"}},
	}
	for _, tt := range tests {
		b, err := os.ReadFile(filepath.Join(dir, tt.page))
		must(t, err)
		for _, want := range tt.want {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s has no %q:\n%s", tt.page, want, b)
			}
		}
	}
	for _, name := range []string{"pptpalg-man.8", "pptpalg-help.8", "pptpalg-completion.8"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

func TestCommandPage(t *testing.T) {
	cmd := &cobra.Command{Use: "do [THING]", Short: "Do it", Long: "Two lines\n.of text.\n\n  as it's \\ written…", Run: func(*cobra.Command, []string) {}}
	cmd.Flags().Bool("hard", false, "or soft")
	cmd.Flags().String("into", "a-b", "the `PLACE`")
	cmd.Flags().UintSlice("ports", []uint{1, 2}, "where")
	root := &cobra.Command{Use: "it"}
	root.AddCommand(cmd)
	version = "1"
	t.Cleanup(func() { version = "" })
	want := `.TH "IT\-DO" 8 "" "pptpalg 1" "pptpalg"
.SH NAME
it\-do \- Do it
.SH SYNOPSIS
.B it do [THING] [flags]
.SH DESCRIPTION
Two lines
\&.of text.
.PP
.nf
  as it\(aqs \e written\[u2026]
.fi
.SH OPTIONS
.TP
\fB\-\-hard\fR
or soft.
.TP
\fB\-\-into\fR \fIPLACE\fR
the PLACE. Default: a\-b.
.TP
\fB\-\-ports\fR \fIuints\fR
where. Default: 1,2.
.SH SEE ALSO
.BR it (8),
.BR pptpalg.yaml (5)
`
	if diff := cmp.Diff(want, commandPage(cmd)); diff != "" {
		t.Error(diff)
	}
}
