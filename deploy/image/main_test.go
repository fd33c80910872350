package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestImage reads what it writes: an image for each machine, that runs its program.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	name := made(t, dir, "image.tar")
	if a, b := read(t, name), read(t, made(t, dir, "again.tar")); !bytes.Equal(a, b) {
		t.Error("two images of the same programs differ")
	}
	index, err := layout.ImageIndexFromPath(unpacked(t, name))
	must(t, err)
	top, err := index.IndexManifest()
	must(t, err)
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.0.0-rc1" {
		t.Fatalf("at the top is %+v", top)
	}
	all, err := index.ImageIndex(top.Manifests[0].Digest)
	must(t, err)
	manifest, err := all.IndexManifest()
	must(t, err)
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		img, err := all.Image(m.Digest)
		must(t, err)
		wantImage(t, img, m.Platform)
	}
	if want := []string{"linux/amd64", "linux/arm/v7"}; !slices.Equal(platforms, want) {
		t.Errorf("images for %v, want %v", platforms, want)
	}
}

func made(t *testing.T, dir, name string) string {
	t.Helper()
	for _, f := range []string{"linux/amd64", "linux/arm/v7", "LICENSE"} {
		file := filepath.Join(dir, f)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte("for "+f), 0o600))
	}
	name = filepath.Join(dir, name)
	must(t, run([]string{"-o", name, "-version", "1.0.0~rc1", "-at", "1000", "-license", filepath.Join(dir, "LICENSE"),
		"linux/amd64=" + filepath.Join(dir, "linux/amd64"), "linux/arm/v7=" + filepath.Join(dir, "linux/arm/v7")}))
	return name
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// unpacked unpacks a tar file and returns the directory.
func unpacked(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, err)
		file := filepath.Join(dir, h.Name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, text, 0o644))
	}
}

// wantImage looks at an image's settings and its files.
func wantImage(t *testing.T, img v1.Image, platform *v1.Platform) {
	t.Helper()
	config, err := img.ConfigFile()
	must(t, err)
	if p := config.Platform(); p.String() != platform.String() {
		t.Errorf("the image for %s says %s", platform, p)
	}
	if c := config.Config; !slices.Equal(c.Entrypoint, []string{"/usr/sbin/pptpalg"}) || !slices.Equal(c.Cmd, []string{"run"}) || c.Labels["org.opencontainers.image.version"] != "1.0.0~rc1" {
		t.Errorf("settings %+v", c)
	}
	if config.Created.Unix() != 1000 || len(config.RootFS.DiffIDs) != 1 {
		t.Errorf("made %v, of %v", config.Created, config.RootFS.DiffIDs)
	}
	layers, err := img.Layers()
	must(t, err)
	r, err := layers[0].Uncompressed()
	must(t, err)
	defer r.Close()
	files := make(map[string]int64)
	for r := tar.NewReader(r); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		files[h.Name] = h.Mode
		if text, _ := io.ReadAll(r); h.Name == "usr/sbin/pptpalg" && string(text) != "for "+platform.String() {
			t.Errorf("the program for %s is %q", platform, text)
		}
	}
	if files["usr/sbin/pptpalg"] != 0o755 || files["usr/share/doc/pptpalg/LICENSE"] != 0o644 || files["run/pptpalg/"] != 0o755 {
		t.Errorf("files %v", files)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"-at", "x"}, {"linux/amd64=/nothing"}} {
		if err := run(append([]string{"-o", filepath.Join(t.TempDir(), "image.tar")}, args...)); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
