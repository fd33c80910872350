// Command demo shows pptpalg's main job, in a network of namespaces that it builds and
// removes: two real PPTP clients with the same Call ID behind one public address, and a
// real PPTP server. With -ha there are two gateways, and one of them dies.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/internal/progress"
)

func main() {
	if lab.StandIn() {
		return
	}
	ha := flag.Bool("ha", false, "two gateways, of which one dies")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: demo [-ha] PATH-OF-PPTPALG")
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	plan := alone
	if *ha {
		plan = pair
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := show(ctx, flag.Arg(0), plan)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// plan is a demonstration: its network, the programs that it needs, and what happens there.
type plan struct {
	network lab.Options
	needs   []string
	steps   []step
}

// step is a part of a demonstration.
type step struct {
	what string
	do   func(*demo) error
}

// show runs a demonstration and leaves nothing behind, whatever happens.
func show(ctx context.Context, program string, p plan) (err error) {
	if err := lab.Need(p.needs...); err != nil {
		return err
	}
	n, err := lab.New(p.network)
	if err != nil {
		return err
	}
	d := &demo{Network: n, ctx: ctx, program: program}
	steps := progress.Start(os.Stdout, len(p.steps))
	defer steps.Done()
	d.closeLater(n)
	defer func() { err = errors.Join(err, d.close()) }()
	for _, step := range p.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		steps.Next(step.what)
		if err := step.do(d); err != nil {
			return fmt.Errorf("%w%s", err, d.said())
		}
	}
	return nil
}
