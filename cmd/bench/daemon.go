package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pptpalg/cmd/bench/internal/clock"
	"pptpalg/cmd/internal/lab"
)

const metricsAddr = "127.0.0.1:9723"

// readyTime is how long a daemon may take to begin, with many calls to remember.
const readyTime = 60 * time.Second

// daemon is a pptpalg that runs on a gateway as it would be deployed: rules,
// journal and metrics.
type daemon struct {
	host    *lab.Host
	program string
	args    []string
	state   string // its state directory
	log     *lab.Log
	process *lab.Process
	client  *http.Client
}

// startDaemon starts pptpalg and waits until it edits.
func startDaemon(h *lab.Host, program string, args ...string) (*daemon, error) {
	state, err := os.MkdirTemp("", "pptpalg-bench-")
	if err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return h.Dial(ctx, netip.AddrPort{}, netip.MustParseAddrPort(metricsAddr))
	}
	d := &daemon{
		host: h, program: program, state: state,
		args:   append([]string{"run", "--state-dir", state, "--listen", metricsAddr}, args...),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
	}
	if slices.Contains(args, "--fastpath") {
		d.args = append(d.args, "--fastpath-dir", filepath.Join(state, "bpf"))
	}
	if err := d.start(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// start runs the daemon in a mount namespace of its own, with which all ends that the fast
// path pins.
func (d *daemon) start() error {
	cmd, err := prioritized(d.host, "unshare", slices.Concat([]string{"--mount", d.program}, d.args)...)
	if err != nil {
		return err
	}
	d.log = new(lab.Log)
	cmd.Stderr = d.log
	if d.process, err = d.host.Start(cmd); err != nil {
		return err
	}
	return d.waitReady()
}

// prioritized is a command with the priority that the daemon's unit gives it
// (deploy/pptpalg.service).
func prioritized(h *lab.Host, program string, args ...string) (*exec.Cmd, error) {
	return h.Command(context.Background(), "nice", slices.Concat([]string{"-n", "-10", program}, args)...)
}

// waitReady waits until it edits, or has ended.
func (d *daemon) waitReady() error {
	err := lab.Poll(readyTime, func() bool {
		select {
		case <-d.process.Done():
			return true
		default:
			return d.started()
		}
	})
	if err == nil && !d.started() {
		err = errors.New("it has ended")
	}
	if err != nil {
		return fmt.Errorf("wait for pptpalg: %w; log: %s", err, d.log)
	}
	return nil
}

// started reports whether the daemon has said that it edits. Earlier releases said it in
// another word; make bench can compare with one of them.
func (d *daemon) started() bool {
	log := d.log.String()
	return strings.Contains(log, "msg=started") || strings.Contains(log, "msg=editing")
}

// clocks is the daemon's time.
func (d *daemon) clocks() []clock.Process { return []clock.Process{clock.Process(d.process.PID())} }

// restart kills the daemon, starts it anew and returns how long it took from its
// start until it edited and its metrics answered.
func (d *daemon) restart() (time.Duration, error) {
	if err := d.process.Kill(); err != nil {
		return 0, err
	}
	from := time.Now()
	if err := d.start(); err != nil {
		return 0, err
	}
	if _, err := d.metrics(); err != nil {
		return 0, err
	}
	return time.Since(from), nil
}

// forwarded returns how many packets a path of its fast path has forwarded.
func (d *daemon) forwarded(path string) (uint64, error) {
	m, err := d.metrics()
	return uint64(m[fmt.Sprintf(`pptpalg_fastpath_packets_total{path="%s"}`, path)]), err
}

// metrics reads its metrics, by name with labels.
func (d *daemon) metrics() (map[string]float64, error) {
	r, err := d.client.Get("http://" + metricsAddr + "/metrics")
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer r.Body.Close()
	m, err := parseMetrics(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	return m, nil
}

func parseMetrics(r io.Reader) (map[string]float64, error) {
	m := make(map[string]float64)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		space := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || space < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, err
		}
		m[line[:space]] = value
	}
	return m, lines.Err()
}

// resident returns its resident memory in bytes.
func (d *daemon) resident() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.process.PID()))
	if err != nil {
		return 0, fmt.Errorf("read memory of pptpalg: %w", err)
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory of pptpalg: %q", b)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// Close ends it, by SIGTERM so that its rules go too.
func (d *daemon) Close() error {
	var err error
	if d.process != nil {
		if e := d.process.Signal(syscall.SIGTERM); e == nil {
			if e := d.process.Wait(readyTime); e != nil {
				err = errors.Join(e, d.process.Kill())
			}
		}
	}
	return errors.Join(err, os.RemoveAll(d.state))
}
