package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// keepalivedConf is what moves the addresses of two gateways: the one with the higher priority has
// them first. Its daemon tells that it may have them, and is told when it has.
const keepalivedConf = `global_defs {
	router_id %[1]s
	vrrp_version 3
	script_user root
}
vrrp_script pptpalg {
	script "%[3]s cluster status"
	interval 1
	timeout 10
	fall 1
	rise 1
}
vrrp_sync_group gateway {
	group {
		inside
		outside
	}
	notify_master "%[3]s cluster take %[5]v"
	notify_backup "%[3]s cluster drop %[5]v"
	notify_fault "%[3]s cluster drop %[5]v"
	track_script {
		pptpalg
	}
}
vrrp_instance inside {
	interface lan
	state BACKUP
	nopreempt
	virtual_router_id 51
	priority %[2]d
	advert_int 1
	garp_master_refresh 10
	virtual_ipaddress {
		%[4]v/24 dev lan
	}
}
vrrp_instance outside {
	interface wan
	state BACKUP
	nopreempt
	virtual_router_id 51
	priority %[2]d
	advert_int 1
	garp_master_refresh 10
	virtual_ipaddress {
		%[5]v/24 dev wan
	}
}
`

// startKeepalived runs keepalived beside a gateway's daemon.
func (g *testGateway) startKeepalived(name string, priority int) (*lab.Process, *lab.Log) {
	g.t.Helper()
	dir := g.t.TempDir()
	script, conf := filepath.Join(dir, "pptpalg"), filepath.Join(dir, "keepalived.conf")
	must(g.t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n%s=1 exec %s \"$@\" --state-dir %s\n", asProgram, os.Args[0], g.state), 0o755))
	must(g.t, os.WriteFile(conf, fmt.Appendf(nil, keepalivedConf, name, priority, script, lab.GatewayInside, lab.GatewayPublic), 0o644))
	cmd, err := g.Gateway.Command(context.Background(), "keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp",
		"--use-file", conf, "--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp"))
	must(g.t, err)
	log := new(lab.Log)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := g.Gateway.Start(cmd)
	must(g.t, err)
	g.t.Cleanup(func() {
		_ = p.Kill()
		if g.t.Failed() {
			g.t.Logf("keepalived of %s: %s", name, log)
		}
	})
	return p, log
}

// pace sends packets through a call that its server sends back, until it is stopped. Stopped, it tells
// how many were lost, and for how long none came.
func pace(t *testing.T, call *lab.Call) (stop func(what string)) {
	t.Helper()
	const every = 2 * time.Millisecond
	quit, done := make(chan struct{}), make(chan error, 1)
	sent, got, silence := 0, 0, time.Duration(0)
	go func() {
		last := time.Now()
		for {
			select {
			case <-quit:
				silence = max(silence, time.Since(last))
				done <- nil
				return
			default:
			}
			if err := call.Send(binary.BigEndian.AppendUint32(nil, uint32(sent))); err != nil && !errors.Is(err, syscall.ENETUNREACH) {
				done <- err
				return
			}
			sent++
			if _, err := call.Recv(every); err == nil {
				got++
				silence = max(silence, time.Since(last))
				last = time.Now()
			}
		}
	}()
	return func(what string) {
		t.Helper()
		close(quit)
		must(t, <-done)
		t.Logf("%s: %d of %d packets have not come back, the longest silence is %v", what, sent-got, sent, silence.Round(time.Millisecond))
		for { // what comes late
			if _, err := call.Recv(100 * time.Millisecond); err != nil {
				return
			}
		}
	}
}

// untilCarries waits until a call carries packets: while addresses move, some are lost.
func untilCarries(t *testing.T, call *lab.Call) {
	t.Helper()
	n := uint32(0)
	must(t, lab.Poll(lab.Patience, func() bool {
		n++
		return call.Carries(fmt.Appendf(nil, "after the move, packet %d", n), 200*time.Millisecond) == nil
	}))
}

// carry has every call carry packets both ways, in turn. What has been late while addresses moved may
// still come.
func carry(t *testing.T, calls ...*lab.Call) {
	t.Helper()
	for i := range 3 {
		for j, c := range calls {
			must(t, c.Carries(fmt.Appendf(nil, "call %d, packet %d", j, i), lab.Patience))
		}
	}
}

// TestKeepalived: keepalived moves the addresses of two gateways: in order, when a daemon dies, and when
// a gateway does. No call dies.
func TestKeepalived(t *testing.T) {
	needRoot(t)
	must(t, lab.Need("keepalived"))
	c := startCluster(t, datapath.Kernel, 2)
	a, b, ctx := c.a, c.b, t.Context()
	must(t, a.Drop(ctx, a.Gateway))
	moverA, _ := a.startKeepalived("a", 150)
	here := func(g *testGateway) func() bool {
		return func() bool {
			st := g.status()
			return len(st.Addresses) == 1 && st.Addresses[0].Here && st.Addresses[0].Mine
		}
	}
	is := func(g *testGateway) {
		t.Helper()
		if err := lab.Poll(2*lab.Patience, here(g)); err != nil {
			t.Fatalf("%v: a %+v, b %+v", err, a.status(), b.status())
		}
		must(t, g.Moved(ctx, g.Gateway))
	}
	s := a.server(lab.Behaviour{Refuse: true, NextID: lab.Counting(1000)})
	is(a)
	_, logB := b.startKeepalived("b", 100)
	must(t, logB.WaitFor("Entering BACKUP STATE", lab.Patience))
	one, two := callOn(t, a.client(0), 7), callOn(t, a.client(1), 7)
	exchange(t, one, two)

	a.wantFollowedBy(b)
	stop := pace(t, one)
	must(t, moverA.Signal(syscall.SIGTERM))
	is(b)
	untilCarries(t, two)
	stop("in order")
	carry(t, one, two)
	wantEcho(t, one.Client(), 1)
	wantEcho(t, one.Client(), 2)
	three := callOn(t, one.Client(), 8)
	b.wantOwner(3, "b", true)
	b.wantFollowedBy(a)

	_, logA := a.startKeepalived("a", 150)
	must(t, logA.WaitFor("Entering BACKUP STATE", lab.Patience))
	stop = pace(t, two)
	b.kill()
	is(a)
	untilCarries(t, one)
	stop("the daemon of b is killed")
	carry(t, one, two, three)
	wantEcho(t, two.Client(), 3)
	wantEcho(t, two.Client(), 4)
	wantCleared(t, two)
	b.start(clusterFlags("b")...)
	a.wantFollowedBy(b)

	stop = pace(t, three)
	must(t, a.Cut(ctx, a.Gateway))
	is(b)
	untilCarries(t, one)
	stop("a is cut off")
	carry(t, one, three)
	for n := range uint32(2) {
		wantEcho(t, one.Client(), 5+n)
	}
	wantCleared(t, one)
	wantCleared(t, three)
	b.wantCalls(0)
	if n := len(s.Unmatched()); n > 0 {
		t.Errorf("%d packets are for no call: %v", n, s.Unmatched())
	}
}
