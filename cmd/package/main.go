// Command package builds the .deb and the .rpm of pptpalg, in the repository's root. It
// lets the program generate its manual pages, completions and default configuration, and
// runs nfpm with deploy/package/nfpm.yaml.
//
// nfpm has a module of its own, deploy/package/go.mod.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
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
	arch := f.String("arch", "amd64", "GOARCH of the packages")
	out := f.String("o", "bin", "directory for them")
	if err := f.Parse(args); err != nil {
		return err
	}
	at, err := epoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp("", "pptpalg-package")
	if err != nil {
		return fmt.Errorf("make stage: %w", err)
	}
	defer os.RemoveAll(stage)
	p := packing{root: ".", stage: stage, arch: *arch, version: sortable(*describe, at), at: at}
	p.steps = progress.Start(os.Stderr, len(p.programs())+len([]string{"nfpm", "pages"})+f.NArg())
	defer p.steps.Done()
	return p.run(ctx, f.Args(), *out)
}

// run builds packages of these formats, "deb" and "rpm".
func (p *packing) run(ctx context.Context, formats []string, out string) error {
	if err := p.generate(ctx); err != nil {
		return err
	}
	for _, format := range formats {
		p.begin("write the " + format)
		name, err := p.pack(ctx, format, out)
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
