package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// section is what CHANGELOG.md says of a release.
type section struct {
	version string
	at      time.Time
	changes []string
}

// unreleased is the heading of what comes out in the version that is packed.
const unreleased = "Unreleased"

// A section of CHANGELOG.md begins with a version and a day.
var heading = regexp.MustCompile(`^## (?:(Unreleased)|([0-9]\S*) \(([0-9]{4}-[0-9]{2}-[0-9]{2})\))$`)

// changelog writes the packages' changelogs: Debian's is a file, rpm's is for nfpm.
func (p *packing) changelog() error {
	text, err := os.ReadFile(filepath.Join(p.root, "CHANGELOG.md"))
	if err != nil {
		return fmt.Errorf("read changes: %w", err)
	}
	sections, err := sectionsIn(string(text), section{version: p.version, at: p.at})
	if err != nil {
		return fmt.Errorf("read CHANGELOG.md: %w", err)
	}
	plain := p.staged("changelog")
	if err := os.WriteFile(plain, debianChangelog(sections, p.maintainer), 0o644); err != nil {
		return fmt.Errorf("write changelog: %w", err)
	}
	rpm, err := rpmChangelog(sections, p.maintainer)
	if err != nil {
		return err
	}
	return errors.Join(compress(plain, plain+".gz"), os.WriteFile(plain+".yaml", rpm, 0o644))
}

// sectionsIn returns what the file says of each release, the newest first, which is the one
// that is packed.
func sectionsIn(text string, packed section) ([]section, error) {
	var all []section
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch last := len(all) - 1; {
		case strings.HasPrefix(line, "## "):
			r, err := sectionOf(line, packed)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		case last < 0 || strings.TrimSpace(line) == "": // what the file is
		case strings.HasPrefix(line, "- "):
			all[last].changes = append(all[last].changes, line[2:])
		case strings.HasPrefix(line, "  ") && len(all[last].changes) > 0:
			all[last].changes[len(all[last].changes)-1] += " " + strings.TrimSpace(line)
		default:
			return nil, fmt.Errorf("%q is neither a heading nor a change", line)
		}
	}
	if len(all) == 0 || all[0].version != packed.version {
		packed.changes = []string{"Built between releases."}
		all = append([]section{packed}, all...)
	}
	return all, nil
}

func sectionOf(line string, packed section) (section, error) {
	m := heading.FindStringSubmatch(line)
	if m == nil {
		return section{}, fmt.Errorf("%q is no heading of a release: write %q or %q", line, "## "+unreleased, "## 1.2.3 (2026-01-31)")
	}
	if m[1] == unreleased {
		return packed, nil
	}
	at, err := time.Parse(time.DateOnly, m[3])
	if err != nil {
		return section{}, fmt.Errorf("read %q: %w", line, err)
	}
	return section{version: m[2], at: at}, nil
}

// debianWidth is how long a line of Debian's changelog is at most.
const debianWidth = 79

// debianChangelog is a changelog as dpkg-parsechangelog reads it.
func debianChangelog(sections []section, maintainer string) []byte {
	var b bytes.Buffer
	for i, r := range sections {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "pptpalg (%s) stable; urgency=medium\n\n", r.version)
		for _, change := range r.changes {
			b.WriteString(wrap("  * ", "    ", change))
		}
		fmt.Fprintf(&b, "\n -- %s  %s\n", maintainer, r.at.Format(time.RFC1123Z))
	}
	return b.Bytes()
}

// wrap breaks a text into lines that begin with first and then.
func wrap(first, then, text string) string {
	var b strings.Builder
	line := first
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			line += word
		case len(line)+1+len(word) > debianWidth:
			b.WriteString(line + "\n")
			line = then + word
		default:
			line += " " + word
		}
	}
	return b.String() + line + "\n"
}

// rpmChangelog is a changelog as nfpm reads it, which is YAML, and so may be JSON.
func rpmChangelog(sections []section, maintainer string) ([]byte, error) {
	type change struct {
		Note string `json:"note"`
	}
	type entry struct {
		Semver   string    `json:"semver"`
		Date     time.Time `json:"date"`
		Packager string    `json:"packager"`
		Changes  []change  `json:"changes"`
	}
	entries := make([]entry, len(sections))
	for i, r := range sections {
		entries[i] = entry{Semver: r.version + "-1", Date: r.at, Packager: maintainer}
		for _, text := range r.changes {
			entries[i].Changes = append(entries[i].Changes, change{text})
		}
	}
	b, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("write changelog: %w", err)
	}
	return b, nil
}
