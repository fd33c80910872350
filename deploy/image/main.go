// Command image writes a container image of pptpalg, for one or more machines, without a
// daemon and without a base: a tar file of an OCI image layout, which podman, skopeo and
// docker (25 or newer) load. The same programs make the same bytes.
//
// It has a module of its own: those who build pptpalg need none of it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// what is in the image beside the program.
type what struct {
	version string
	license string // the file
	at      time.Time
}

// run is the command line.
func run(args []string) error {
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	out := f.String("o", "image.tar", "file to write")
	version := f.String("version", "devel", "version of the program")
	license := f.String("license", "LICENSE", "file of the license")
	at := f.Int64("at", 0, "time of every file, in seconds since 1970")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("usage: image [flags] PLATFORM=PROGRAM..., as linux/arm/v7=bin/pptpalg")
	}
	w := what{*version, *license, time.Unix(*at, 0).UTC()}
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range f.Args() {
		name, program, _ := strings.Cut(arg, "=")
		one, err := w.image(name, program)
		if err != nil {
			return fmt.Errorf("image for %s: %w", name, err)
		}
		all = mutate.AppendManifests(all, one)
	}
	return write(*out, *version, all, w.at)
}

// image is one for a platform, such as linux/arm/v7.
func (w what) image(name, program string) (mutate.IndexAddendum, error) {
	platform, err := v1.ParsePlatform(name)
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	files, err := w.layer(program)
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: w.at}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: platform.Architecture, Variant: platform.Variant, OS: platform.OS, Created: created,
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: []string{"/usr/sbin/pptpalg"},
			Cmd:        []string{"run"},
			Env:        []string{"PATH=/usr/sbin"},
			// It removes its rules and leaves the calls.
			StopSignal: "SIGTERM",
			Labels: map[string]string{
				"org.opencontainers.image.title":       "pptpalg",
				"org.opencontainers.image.description": "PPTP NAT editor for gateways",
				"org.opencontainers.image.version":     w.version,
				"org.opencontainers.image.licenses":    "Apache-2.0",
			},
		},
	})
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	img, err = mutate.Append(img, mutate.Addendum{Layer: files, History: v1.History{Created: created, CreatedBy: "make image"}})
	return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}}, err
}

// write lays the images out in a directory, and packs that.
func write(name, version string, all v1.ImageIndex, at time.Time) error {
	dir, err := os.MkdirTemp("", "pptpalg-image")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	// podman and docker name the image so; "~" and "+" are in no tag.
	tag := strings.NewReplacer("~", "-", "+", "-").Replace(version)
	called := map[string]string{
		"org.opencontainers.image.ref.name": tag,
		"io.containerd.image.name":          "localhost/pptpalg:" + tag,
	}
	if err := l.AppendIndex(all, layout.WithAnnotations(called)); err != nil {
		return fmt.Errorf("write images: %w", err)
	}
	return pack(name, dir, at)
}
