// Command package builds packages of pptpalg, in the repository's root: deb, rpm, apk, ipk
// and archlinux. It lets the program generate its manual pages, completions and default
// configuration, and runs nfpm with the files in deploy/package.
//
// nfpm has a module of its own, deploy/package/go.mod.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := build(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

// build is the command line.
func build(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("package", flag.ContinueOnError)
	describe := f.String("version", "", "what git describe says")
	arches := f.String("arch", "amd64", "machines, divided by commas: GOARCH, or armv7")
	tags := f.String("tags", "", "build tags of the program, divided by commas")
	by := f.String("maintainer", maintainer, "who answers for the packages")
	out := f.String("o", "bin", "directory for them")
	key := f.String("key", "", "key of GnuPG that signs a release")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: package [flags] deb|rpm|apk|ipk|archlinux... builds packages,\n       package [flags] image a container image,\n       package [flags] release a release of the packages in -o")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	at, err := epoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	p := packing{root: ".", tags: *tags, version: sortable(*describe, at), maintainer: *by, at: at, say: steps()}
	machines := strings.Split(*arches, ",")
	switch f.Arg(0) {
	case "release":
		return repository{dir: *out, key: *key, say: p.say}.publish(ctx)
	case "image":
		return p.image(ctx, machines, *out)
	}
	for _, machine := range machines {
		one := p
		one.arch = machine
		if err := one.run(ctx, f.Args(), *out); err != nil {
			return err
		}
	}
	return nil
}

// steps returns what says which step begins.
func steps() func(string) {
	said := 0
	return func(step string) {
		said++
		fmt.Fprintf(os.Stderr, "package: step %d: %s\n", said, step)
	}
}

// run builds packages of these formats, for one machine.
func (p *packing) run(ctx context.Context, kinds []string, out string) error {
	stage, err := os.MkdirTemp("", "pptpalg-package")
	if err != nil {
		return fmt.Errorf("make stage: %w", err)
	}
	defer os.RemoveAll(stage)
	p.stage = stage
	if err := p.generate(ctx); err != nil {
		return err
	}
	for _, kind := range kinds {
		name, err := p.pack(ctx, kind, out)
		if err != nil {
			return err
		}
		fmt.Println(name)
	}
	return nil
}

// epoch reads SOURCE_DATE_EPOCH, in seconds since 1970.
func epoch(text string) (time.Time, error) {
	var seconds int64
	if _, err := fmt.Sscan(text, &seconds); err != nil {
		return time.Time{}, fmt.Errorf("read SOURCE_DATE_EPOCH %q: %w", text, err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
