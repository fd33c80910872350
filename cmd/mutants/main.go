// Command mutants changes the code of packages in small ways, one at a time, and runs their
// unit tests on each change: a mutant that no test notices is live. It draws the mutants
// from a seed, prints those that live, and fails if too many do.
//
//	mutants [-n 100] [-seed 1] [-least 92] PACKAGE...
//
// A mutant of one of the packages runs the tests of all of them, because tests of the call
// table are in alg as well. gremlins (v0.6.0) is not enough: it runs either the tests of
// the changed package only or those of the whole module, which need root; it draws no
// samples, and removes no statements, branches or results.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pptpalg/cmd/internal/progress"
)

// memory is how much address space a test may have: some mutants never stop allocating.
const memory = 8 << 30

// atATime is after how many mutants the live ones are printed.
const atATime = 20

// options are the flags.
type options struct {
	n, least, workers, checks int
	seed                      uint64
	files                     string
	timeout                   time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.n, "n", 100, "how many mutants to try; 0 for all")
	flag.Uint64Var(&o.seed, "seed", 1, "which ones")
	flag.IntVar(&o.least, "least", 92, "how many of 100 must die")
	flag.StringVar(&o.files, "files", "", "change only files whose path matches this regular expression")
	flag.IntVar(&o.workers, "workers", runtime.NumCPU(), "how many to try at a time")
	flag.IntVar(&o.checks, "checks", 30, "how often rapid checks a property")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long a package's tests may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: memory, Max: memory})
	if err == nil {
		err = run(ctx, os.Stdout, o, flag.Args())
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, o options, packages []string) error {
	all, err := rooms(ctx, packages)
	if err != nil {
		return err
	}
	candidates, err := draw(all, o)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return fmt.Errorf("make scratch directory: %w", err)
	}
	defer os.RemoveAll(scratch)
	s := &suite{scratch: scratch, rooms: all, timeout: o.timeout, checks: o.checks}
	if s.run(ctx, "", "") != live {
		return errors.New("the tests fail without any change: go test says why")
	}
	dead, tried, err := s.sample(ctx, out, o, candidates)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d of %d mutants died, seed %d\n", dead, tried, o.seed)
	if dead*100 < o.least*tried {
		return fmt.Errorf("fewer than %d of 100 died", o.least)
	}
	return nil
}

// draw returns all mutants in an order that the seed decides.
func draw(all []room, o options) ([]mutant, error) {
	files, err := regexp.Compile(o.files)
	if err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	var candidates []mutant
	for _, r := range all {
		for _, name := range r.files {
			if path := filepath.Join(r.dir, name); files.MatchString(path) {
				found, err := mutantsOf(r.dir, path)
				if err != nil {
					return nil, err
				}
				candidates = append(candidates, found...)
			}
		}
	}
	rand.New(rand.NewPCG(o.seed, 0)).Shuffle(len(candidates), func(i, j int) {
		candidates[i], candidates[j] = candidates[j], candidates[i]
	})
	return candidates, nil
}

// sample tries mutants until there are as many that compile as were asked for. It prints
// those that live.
func (s *suite) sample(ctx context.Context, out io.Writer, o options, candidates []mutant) (dead, tried int, err error) {
	begun := time.Now()
	for next := 0; next < len(candidates) && (o.n == 0 || tried < o.n); {
		size := min(atATime, len(candidates)-next)
		if o.n > 0 {
			size = min(size, o.n-tried)
		}
		batch := candidates[next : next+size]
		verdicts, err := s.batch(ctx, o.workers, next, batch)
		if err != nil {
			return dead, tried, err
		}
		for i, v := range verdicts {
			switch v {
			case live:
				fmt.Fprintf(out, "LIVE %s\n", batch[i])
				tried++
			case killed:
				dead++
				tried++
			}
		}
		next += size
		fmt.Fprintf(os.Stderr, "%s %d died\n", progress.Mark(tried, cmp.Or(o.n, len(candidates)), time.Since(begun)), dead)
	}
	return dead, tried, nil
}

// batch tries mutants, several at a time. first is the number of the first one.
func (s *suite) batch(ctx context.Context, workers, first int, of []mutant) ([]verdict, error) {
	verdicts := make([]verdict, len(of))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i, m := range of {
		group.Go(func() (err error) {
			verdicts[i], err = s.try(ctx, first+i, m)
			return errors.Join(err, ctx.Err()) // a test that was broken off has not failed
		})
	}
	return verdicts, group.Wait()
}
