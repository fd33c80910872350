package bugreport

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

const (
	// longest is how many bytes a file of the archive has at most.
	longest = 8 << 20
	// patience is how long a part may take.
	patience = 30 * time.Second
)

// Part is a file of the archive.
type Part struct {
	Name  string
	What  string // in a few words
	Write func(ctx context.Context, w io.Writer) error
}

// Entry is what became of a part.
type Entry struct {
	Part
	Size int
	Err  error // the file says what is missing
}

// Archive writes the parts as gzipped tar, in a directory. clean takes out of a file what is
// not to be in it.
func Archive(ctx context.Context, w io.Writer, dir string, parts []Part, clean func([]byte) []byte, now time.Time) (all []Entry, err error) {
	zip := gzip.NewWriter(w)
	files := tar.NewWriter(zip)
	for _, p := range parts {
		text, failed := p.text(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if failed != nil {
			text = fmt.Appendf(text, "\n%s is incomplete: %v\n", p.Name, failed)
		}
		text = clean(text)
		all = append(all, Entry{p, len(text), failed})
		head := &tar.Header{Name: dir + "/" + p.Name, Mode: 0o600, Size: int64(len(text)), ModTime: now}
		if err := files.WriteHeader(head); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
		if _, err := files.Write(text); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
	}
	if err := errors.Join(files.Close(), zip.Close()); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return all, nil
}

func (p *Part) text(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var b bounded
	err := p.Write(ctx, &b)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it took longer than %v", patience)
	}
	return b.text, errors.Join(err, b.full)
}

// bounded is a buffer that leaves out what is too much.
type bounded struct {
	text []byte
	full error
}

func (b *bounded) Write(p []byte) (int, error) {
	some := p
	if room := longest - len(b.text); len(p) > room {
		b.full = fmt.Errorf("cut off after %d bytes", longest)
		some = p[:room]
	}
	b.text = append(b.text, some...)
	return len(p), nil
}

// Programs is a part with what programs print, each below its command line. Those that are
// not installed are left out, if another one is.
func Programs(name, what string, commands ...[]string) Part {
	return Part{name, what, func(ctx context.Context, w io.Writer) error {
		var errs []error
		var missing []string
		for _, args := range commands {
			path, err := exec.LookPath(args[0])
			if err != nil {
				missing = append(missing, args[0])
				continue
			}
			errs = append(errs, run(ctx, w, path, args))
		}
		if len(missing) == len(commands) {
			return fmt.Errorf("%s: not installed", strings.Join(missing, ", "))
		}
		return errors.Join(errs...)
	}}
}

func run(ctx context.Context, w io.Writer, path string, args []string) error {
	fmt.Fprintf(w, "$ %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}
