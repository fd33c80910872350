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

	"pptpalg/cmd/internal/progress"
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
	p := packing{root: ".", tags: *tags, version: sortable(*describe, at), maintainer: *by, at: at}
	machines := strings.Split(*arches, ",")
	switch f.Arg(0) {
	case "release":
		r := repository{dir: *out, key: *key, steps: progress.Start(os.Stderr, releaseSteps)}
		defer r.steps.Done()
		return r.publish(ctx)
	case "image":
		p.steps = progress.Start(os.Stderr, len(machines)+1)
		defer p.steps.Done()
		return p.image(ctx, machines, *out)
	}
	return p.runAll(ctx, machines, f.Args(), *out)
}

// runAll builds packages of these formats, for each machine.
func (p packing) runAll(ctx context.Context, machines, kinds []string, out string) error {
	all := make([]packing, len(machines))
	steps := 0
	for i, machine := range machines {
		all[i] = p
		all[i].arch = machine
		steps += len(all[i].programs()) + len([]string{"nfpm", "pages"}) + len(kinds)
	}
	said := progress.Start(os.Stderr, steps)
	defer said.Done()
	for _, one := range all {
		one.steps = said
		if err := one.run(ctx, kinds, out); err != nil {
			return err
		}
	}
	return nil
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
