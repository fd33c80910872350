package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// verdict is what the tests say of a mutant.
type verdict uint8

const (
	unbuilt verdict = iota // it does not compile, and is no mutant
	killed                 // a test failed, or took too long
	live
)

// suite is how the tests are run. They are the same for each mutant: rapid draws from a seed.
type suite struct {
	scratch string
	rooms   []room
	timeout time.Duration // of one package's tests
	checks  int           // of a property
}

// room is a package.
type room struct {
	dir, path string
	files     []string
	rapid     bool // its tests draw from rapid
}

// rooms lists packages.
func rooms(ctx context.Context, patterns []string) ([]room, error) {
	const form = "{{.Dir}}\t{{.ImportPath}}\t{{join .GoFiles \" \"}}\t{{join .TestImports \" \"}} {{join .XTestImports \" \"}}"
	here, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-f", form}, patterns...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var all []room
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		dir, err := filepath.Rel(here, f[0])
		if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		rapid := len(f) > 3 && strings.Contains(f[3], "pgregory.net/rapid")
		all = append(all, room{dir: dir, path: f[1], files: strings.Fields(f[2]), rapid: rapid})
	}
	return all, nil
}

// try runs the tests with a mutant in the place of the file that it changes.
func (s *suite) try(ctx context.Context, n int, m mutant) (verdict, error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return unbuilt, fmt.Errorf("read source: %w", err)
	}
	changed := filepath.Join(s.scratch, fmt.Sprintf("%d.go", n))
	overlay := filepath.Join(s.scratch, fmt.Sprintf("%d.json", n))
	table, err := json.Marshal(map[string]map[string]string{"Replace": {m.file: changed}}) // go reads both as we do, from here
	if err != nil {
		return unbuilt, fmt.Errorf("write overlay: %w", err)
	}
	for path, b := range map[string][]byte{changed: m.apply(source), overlay: table} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return unbuilt, fmt.Errorf("write overlay: %w", err)
		}
	}
	return s.run(ctx, overlay, m.dir), nil
}

// run runs all tests, those in a directory first: of a mutant's own package, which kill most.
func (s *suite) run(ctx context.Context, overlay, dir string) verdict {
	own := func(r room) bool { return r.dir == dir }
	if i := slices.IndexFunc(s.rooms, own); i >= 0 {
		if v := s.test(ctx, overlay, s.rooms[i]); v != live {
			return v
		}
	}
	for _, r := range slices.DeleteFunc(slices.Clone(s.rooms), own) {
		if v := s.test(ctx, overlay, r); v != live {
			return v
		}
	}
	return live
}

// test runs the tests of a package.
func (s *suite) test(ctx context.Context, overlay string, r room) verdict {
	args := []string{"test", "-short", "-failfast", "-vet=off", "-overlay=" + overlay, "-timeout=" + s.timeout.String(), r.path}
	if r.rapid {
		args = append(args, "-rapid.seed=1", "-rapid.nofailfile", "-rapid.shrinktime=0s", fmt.Sprintf("-rapid.checks=%d", s.checks))
	}
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	switch {
	case err == nil:
		return live
	case bytes.Contains(out, []byte("[build failed]")):
		return unbuilt
	}
	return killed
}
