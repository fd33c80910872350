package main

import (
	"strings"
	"testing"
	"time"
)

func TestSectionsIn(t *testing.T) {
	const released = "# Changes\n\nWhat this is.\n\n## 1.1.0 (2026-12-01)\n\n- Two lines\n  of a change.\n- Another.\n\n## 1.0.0 (2026-11-01)\n\n- First.\n"
	old := "1.0.0 2026-11-01 [First.]"
	tests := []struct {
		name, text, version string
		want                []string
	}{
		{"a release", released, "1.1.0", []string{"1.1.0 2026-12-01 [Two lines of a change.|Another.]", old}},
		{"between releases", released, "1.1.0+3.gabc", []string{"1.1.0+3.gabc 2026-11-22 [Built between releases.]", "1.1.0 2026-12-01 [Two lines of a change.|Another.]", old}},
		{"unreleased", "## Unreleased\n\n- New.\n\n## 1.0.0 (2026-11-01)\n\n- First.\n", "1.0.1", []string{"1.0.1 2026-11-22 [New.]", old}},
		{"nothing", "", "1.0.0", []string{"1.0.0 2026-11-22 [Built between releases.]"}},
	}
	for _, tt := range tests {
		sections, err := sectionsIn(tt.text, section{version: tt.version, at: someTime})
		must(t, err)
		var got []string
		for _, r := range sections {
			got = append(got, r.version+" "+r.at.Format(time.DateOnly)+" ["+strings.Join(r.changes, "|")+"]")
		}
		if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, text := range []string{"## 1.0.0\n", "## 1.0.0 (2026-13-01)\n", "## Unreleased\n\nNo list.\n"} {
		if _, err := sectionsIn(text, section{}); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// TestDebianChangelog: dpkg-parsechangelog and lintian read it in make packages.
func TestDebianChangelog(t *testing.T) {
	const long = "A change that is told in so many words that they do not fit into one line of the file."
	got := string(debianChangelog([]section{{"1.1.0", someTime, []string{long, "Short."}}, {"1.0.0", someTime, []string{"First."}}}, "A <a@b.example>"))
	const want = `pptpalg (1.1.0) stable; urgency=medium

  * A change that is told in so many words that they do not fit into one line
    of the file.
  * Short.

 -- A <a@b.example>  Sun, 22 Nov 2026 12:00:00 +0000

pptpalg (1.0.0) stable; urgency=medium

  * First.

 -- A <a@b.example>  Sun, 22 Nov 2026 12:00:00 +0000
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
