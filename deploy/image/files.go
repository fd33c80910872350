package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer has all files of the image: the program is static, and loads the firewall rules
// itself. The directories are for what the host mounts there.
func (w what) layer(program string) (v1.Layer, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, dir := range []string{"etc/", "etc/pptpalg/", "run/", "run/pptpalg/", "usr/", "usr/sbin/", "usr/share/", "usr/share/doc/", "usr/share/doc/pptpalg/"} {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: w.at}); err != nil {
			return nil, err
		}
	}
	err := errors.Join(
		add(t, "usr/sbin/pptpalg", program, 0o755, w.at),
		add(t, "usr/share/doc/pptpalg/LICENSE", w.license, 0o644, w.at),
		t.Close(),
	)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

// add adds a file of root's.
func add(t *tar.Writer, name, from string, mode int64, at time.Time) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: mode, ModTime: at}); err != nil {
		return err
	}
	_, err = t.Write(text)
	return err
}

// pack writes a directory as a tar file, in order of names.
func pack(name, dir string, at time.Time) error {
	out, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	t := tar.NewWriter(out)
	err = fs.WalkDir(os.DirFS(dir), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return add(t, file, filepath.Join(dir, file), 0o644, at)
	})
	if err := errors.Join(err, t.Close(), out.Close()); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}
