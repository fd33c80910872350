package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Output is what a program wrote.
type Output struct{ Stdout, Stderr string }

// Command prepares a program to run in the namespace by Run, Start or
// exec.Cmd's own methods called within Do. It gets a process group of its own,
// killed as a whole when ctx ends.
func (h *Host) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	path, err := program(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = 5 * time.Second // for a grandchild in another group that holds a pipe
	return cmd, nil
}

// killGroup kills a process group; one that is gone already is no error.
func killGroup(group int) error {
	if err := syscall.Kill(-group, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", group, err)
	}
	return nil
}

// Run runs a program to its end. The error of one that fails carries what it
// wrote to stderr.
func (h *Host) Run(ctx context.Context, name string, args ...string) (Output, error) {
	cmd, err := h.Command(ctx, name, args...)
	if err != nil {
		return Output{}, err
	}
	return h.output(cmd)
}

func (h *Host) output(cmd *exec.Cmd) (Output, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := h.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	out := Output{stdout.String(), stderr.String()}
	if err != nil {
		return out, fmt.Errorf("run %s in %s: %w: %s", filepath.Base(cmd.Path), h.Name, err, strings.TrimSpace(out.Stderr))
	}
	return out, nil
}

// Process is a program that runs in the lab.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after err is set
	err  error
}

// Start starts a prepared Command in the namespace.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	if err := h.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", filepath.Base(cmd.Path), h.Name, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// PID returns the process's number, which is its group's as well.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process alone, not to its group.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end and returns what exec.Cmd's Wait returned.
func (p *Process) Wait(within time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		return fmt.Errorf("wait for %s: still running after %v", filepath.Base(p.cmd.Path), within)
	}
}

// Kill kills the process with its group and waits for its end. Once the process
// has ended it does nothing, for the number may belong to others by then: what is
// left of the group, Network.Close finds.
func (p *Process) Kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := killGroup(p.PID()); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Log keeps what a program writes, to be looked at while it runs. The zero value
// is ready to use as exec.Cmd's Stdout or Stderr.
type Log struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// WaitFor waits until the log contains text.
func (l *Log) WaitFor(text string, within time.Duration) error {
	err := Poll(within, func() bool { return strings.Contains(l.String(), text) })
	if err != nil {
		return fmt.Errorf("wait for %q in log: %w; log: %s", text, err, l.String())
	}
	return nil
}

// ErrTimeout says that something did not come within its time.
var ErrTimeout = errors.New("time is over")

const pollEvery = 2 * time.Millisecond

// Poll asks until the condition holds, and returns ErrTimeout if it does not
// within that time. It asks once more when the time is over: the program may have stood still meanwhile.
func Poll(within time.Duration, condition func() bool) error {
	end := time.Now().Add(within)
	for over := false; ; time.Sleep(pollEvery) {
		if condition() {
			return nil
		}
		if over {
			return fmt.Errorf("poll for %v: %w", within, ErrTimeout)
		}
		over = time.Now().After(end)
	}
}
