package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// PPTPD is Debian's pptpd (poptop) on a host, with the stand-in for its pppd. It
// gives each control connection a process and each call a terminal; it answers
// Call-Clear by closing TCP.
type PPTPD struct {
	*Process
	Log *Log // what it wrote; most goes to syslog, where there is one

	dir string
}

// PPTPDOptions says how a server runs.
type PPTPDOptions struct {
	Name  string        // in its proofs; one word, "" is the host's name
	Every time.Duration // between ticks, 0 for none
}

// wrapper starts the stand-in. pptpd passes neither environment nor PATH.
const wrapper = `#!/bin/sh
%s='%s' %s='%v' exec '%s' "$@"
`

// delegate leaves the client's address to pppd, so that there is no pool to run
// out of.
const pptpdConf = `ppp %s
option /dev/null
pidfile %s
noipparam
delegate
`

// StartPPTPD starts a server and waits until it listens. The program must call
// StandIn.
func StartPPTPD(h *Host, o PPTPDOptions) (*PPTPD, error) {
	if o.Name == "" {
		o.Name = h.Name
	}
	dir, err := pptpdFiles(h, o)
	if err != nil {
		return nil, fmt.Errorf("start pptpd: %w", err)
	}
	d, err := startPPTPD(h, dir)
	if err != nil {
		return nil, fmt.Errorf("start pptpd: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	if err := d.listening(h); err != nil {
		return nil, fmt.Errorf("start pptpd: %w: %s", errors.Join(err, d.Close()), d.Log)
	}
	return d, nil
}

// pptpdFiles writes configuration and wrapper into a directory of their own.
func pptpdFiles(h *Host, o PPTPDOptions) (string, error) {
	if strings.ContainsAny(o.Name, " '") {
		return "", fmt.Errorf("name server: %q is not one word", o.Name)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	dir, err := os.MkdirTemp(h.dir, "pptpd-")
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	ppp := filepath.Join(dir, "ppp")
	script := fmt.Sprintf(wrapper, standInName, o.Name, standInEvery, o.Every, self)
	conf := fmt.Sprintf(pptpdConf, ppp, filepath.Join(dir, "pid"))
	return dir, errors.Join(
		os.WriteFile(ppp, []byte(script), 0o755),
		os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o644))
}

func startPPTPD(h *Host, dir string) (*PPTPD, error) {
	cmd, err := h.Command(context.Background(), "pptpd", "-f", "-c", filepath.Join(dir, "conf"))
	if err != nil {
		return nil, err
	}
	log := new(Log)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := h.Start(cmd)
	if err != nil {
		return nil, err
	}
	return &PPTPD{Process: p, Log: log, dir: dir}, nil
}

// listening waits for the port without connecting: pptpd serves nobody else until
// a new client has spoken.
func (d *PPTPD) listening(h *Host) error {
	return Poll(Patience, func() bool {
		var sockets []byte
		err := h.Do(func() (err error) {
			sockets, err = os.ReadFile("/proc/thread-self/net/tcp")
			return err
		})
		return err == nil && strings.Contains(string(sockets), listenOn1723)
	})
}

// listenOn1723 is, in proc_net_tcp's hexadecimal, local 0.0.0.0:1723, any remote,
// state LISTEN.
const listenOn1723 = " 00000000:06BB 00000000:0000 0A "

// Close kills the server with the processes of its calls. No client is told.
func (d *PPTPD) Close() error {
	return errors.Join(d.Kill(), os.RemoveAll(d.dir))
}
