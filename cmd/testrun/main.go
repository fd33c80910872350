// Command testrun runs "go test" and says how far it is: how many packages of how many have ended, which run, and for
// how long. Of tests that pass it prints nothing. Of a package that fails it prints what "go test" would: the output
// of the failed tests, and of those that had not ended. The exit code is that of "go test".
//
//	testrun go test [flags] PACKAGE...
//
// A flag's value must stand behind "=", as in -p=2, for the packages to be told from it. All lines are plain, and not
// more than one in ten seconds unless something fails.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 4 || os.Args[2] != "test" {
		fmt.Fprintln(os.Stderr, "usage: testrun go test [flags] PACKAGE...")
		os.Exit(2)
	}
	code, err := run(os.Stdout, os.Args[1], os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run runs the tests and returns the exit code of go.
func run(w io.Writer, program string, args []string) (int, error) {
	all, err := packages(program, args)
	if err != nil {
		return 1, err
	}
	// Ctrl-C reaches go by itself. What it has to say of that is read to its end.
	signal.Ignore(os.Interrupt)
	cmd := exec.Command(program, append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 1, fmt.Errorf("read what go says: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start go: %w", err)
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		for s := range terminate {
			cmd.Process.Signal(s)
		}
	}()
	r := newReport(w, all, time.Now)
	r.follow(lines(out), time.NewTicker(time.Second).C)
	var failed *exec.ExitError
	err = cmd.Wait()
	r.end()
	switch {
	case errors.As(err, &failed):
		return max(failed.ExitCode(), 1), nil
	case err != nil:
		return 1, fmt.Errorf("run go: %w", err)
	}
	return 0, nil
}

// packages counts those that the arguments name. What comes behind -args is the tests' own.
func packages(program string, args []string) (int, error) {
	if i := slices.Index(args, "-args"); i >= 0 {
		args = args[:i]
	}
	list := []string{"list", "-e", "--"}
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			list = append(list, a)
		}
	}
	cmd := exec.Command(program, list...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("list packages: %w", err)
	}
	return bytes.Count(out, []byte("\n")), nil
}

// lines sends the lines of a reader, however long, until it ends.
func lines(r io.Reader) <-chan []byte {
	all := make(chan []byte, 64)
	go func() {
		defer close(all)
		b := bufio.NewReader(r)
		for {
			line, err := b.ReadBytes('\n')
			if len(line) > 0 {
				all <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return all
}
