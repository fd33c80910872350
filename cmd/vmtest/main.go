package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

// verdict begins the line that tells the result, on the console of the virtual machine too.
const verdict = "VM-TEST: "

// asGuest is the argument that makes the program the third actor.
const asGuest = "guest"

func main() {
	switch {
	case os.Getpid() == 1:
		boot()
	case len(os.Args) > 1 && os.Args[1] == asGuest:
		os.Exit(report(guest()))
	case len(os.Args) > 2 && os.Args[1] == asCaller:
		if err := call(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(report(onMachine()))
	}
}

// report prints the result and returns the exit code.
func report(err error) int {
	if err != nil {
		fmt.Printf("%sFAIL %v\n", verdict, err)
		return 1
	}
	fmt.Println(verdict + "PASS")
	return 0
}

// onMachine reads the command line and runs the virtual machine.
func onMachine() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := flag.String("cache", filepath.Join(cache, "pptpalg"), "directory in which the kernel is kept, about 60 MB")
	within := flag.Duration("timeout", 15*time.Minute, "how long the virtual machine may run")
	accel := flag.String("accel", "tcg", "qemu's accelerator: tcg, or kvm where it works")
	scenes := flag.String("scenes", "", "run only the scenes whose names this regular expression matches")
	onFresh := flag.Bool("fresh", false, "have a machine of its own install, use and remove two packages, OLD.deb and NEW.deb")
	flag.Parse()
	if flag.NArg() != map[bool]int{false: 1, true: 2}[*onFresh] {
		return errors.New("usage: vmtest [flags] PATH-OF-PPTPALG, or vmtest -fresh [flags] OLD.deb NEW.deb")
	}
	if _, err := regexp.Compile(*scenes); err != nil {
		return fmt.Errorf("read -scenes: %w", err)
	}
	runtime.LockOSThread() // qemu dies with the thread that started it: see machine.run
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k, err := findKernel(ctx, *dir)
	if err != nil {
		return err
	}
	if *onFresh {
		return fresh{kernel: k, packages: [2]string(flag.Args()), accel: *accel, cache: *dir, scenes: *scenes}.run(ctx, *within)
	}
	return machine{kernel: k, program: flag.Arg(0), accel: *accel, scenes: *scenes}.run(ctx, *within)
}
