// Command demo shows pptpalg's main job, in a network of namespaces that it builds and
// removes: two real PPTP clients with the same Call ID behind one public address, and a
// real PPTP server.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"pptpalg/cmd/internal/lab"
)

func main() {
	if lab.StandIn() {
		return
	}
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo PATH-OF-PPTPALG")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := show(ctx, os.Args[1])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// show runs the demonstration and leaves nothing behind, whatever happens.
func show(ctx context.Context, program string) (err error) {
	d, err := build(ctx, program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	for _, step := range []func() error{d.dial, d.exchange, d.report, d.hangUp} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return fmt.Errorf("%w\nthe daemon said: %s", err, d.log)
		}
	}
	return nil
}
