package main

import (
	"fmt"
	"os"
	"testing"

	"pptpalg/cmd/pptpalg/internal/config"
)

// TestCommentOut: a file with several faults becomes valid, and keeps its other lines.
func TestCommentOut(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       []string
		keys       int // that are left
	}{
		{"keys that do not go together, twice", "cluster: etcd://h:1\ngre-queue: 1723\nqueue: 1723\nrest: 1s\n", []string{"-e '1s/^/#/'", "-e '2s/^/#/'"}, 2},
		{"a wrong key, and keys that do not go together", "cluster: etcd://h:1\nqeue: 5\nrest: 1s\n", []string{"-e '1s/^/#/'", "-e '2s/^/#/'"}, 1},
	} {
		keys := func() config.Table { return newSettings("").keys() }
		file := configured(t, tt.file)
		_, err := config.Read(file, keys())
		text, readErr := os.ReadFile(file)
		must(t, readErr)
		edits, values := commentOut(file, string(text), err, keys)
		if fmt.Sprint(edits) != fmt.Sprint(tt.want) || len(values) != tt.keys {
			t.Errorf("%s: %q, and %v", tt.name, edits, values)
		}
	}
	nowhere := config.Errors{{File: "f", Text: "not on this machine"}}
	if edits, _ := commentOut("f", "rest: 1s\n", nowhere, nil); edits != nil {
		t.Errorf("what no line is to blame for: %q", edits)
	}
}
