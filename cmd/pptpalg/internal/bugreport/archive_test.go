package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestArchive(t *testing.T) {
	say := func(text string, err error) func(context.Context, io.Writer) error {
		return func(_ context.Context, w io.Writer) error {
			_, _ = io.WriteString(w, text)
			return err
		}
	}
	var b bytes.Buffer
	entries, err := Archive(t.Context(), &b, "dir", []Part{
		{"a", "", say("secret text\n", nil)},
		{"b", "", say("half\n", errors.New("no secret"))},
		{"c", "", say(strings.Repeat("x", longest+1), nil)},
		Programs("d", "", []string{"echo", "one"}, []string{"no-such-program"}, []string{"false"}),
		Programs("e", "", []string{"no-such-program"}),
	}, func(text []byte) []byte { return bytes.ReplaceAll(text, []byte("secret"), []byte("***")) }, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for files := tar.NewReader(zip); ; {
		head, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(files)
		if err != nil || head.Mode != 0o600 {
			t.Errorf("%s: %o, %v", head.Name, head.Mode, err)
		}
		got[head.Name] = strings.ReplaceAll(string(text), strings.Repeat("x", longest), "MANY")
	}
	want := map[string]string{
		"dir/a": "*** text\n",
		"dir/b": "half\n\nb is incomplete: no ***\n",
		"dir/c": "MANY\nc is incomplete: cut off after 8388608 bytes\n",
		"dir/d": "$ echo one\none\n$ false\n\nd is incomplete: false: exit status 1\n",
		"dir/e": "\ne is incomplete: no-such-program: not installed\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for i, bad := range []bool{false, true, true, true, true} {
		if (entries[i].Err != nil) != bad {
			t.Errorf("%s: %v", entries[i].Name, entries[i].Err)
		}
	}
}
