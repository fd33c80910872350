package main

import (
	"context"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test binary act as the contender that is a process of this
// program.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == goQueueArg {
		exit(rewriteWithGoNFQueue(os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// needRoot skips a test that needs root, or fails it where skipping is forbidden.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PPTPALG_NO_SKIP") != "" {
		t.Fatal("needs root to make network namespaces")
	}
	t.Skip("needs root to make network namespaces")
}

// build builds pptpalg.
func build(t *testing.T) programs {
	t.Helper()
	needRoot(t)
	p := programs{pptpalg: filepath.Join(t.TempDir(), "pptpalg")}
	out, err := exec.Command("go", "build", "-o", p.pptpalg, "pptpalg/cmd/pptpalg").CombinedOutput()
	if err != nil {
		t.Fatalf("build pptpalg: %v: %s", err, out)
	}
	if p.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestContenders has every contender deliver packets, which opening its lane checks,
// and measures it for a moment. How fast it is does not matter.
func TestContenders(t *testing.T) {
	p := build(t)
	for _, c := range contenders(p) {
		t.Run(c.name, func(t *testing.T) { deliver(t, c, 300, 64, 1400) })
	}
}

// deliver opens a lane and measures it for a moment.
func deliver(t *testing.T, c contender, calls int, sizes ...int) {
	t.Helper()
	l, err := openLane(t.Context(), c, calls, sizes)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, l)
	for k := range l.generators {
		s, err := l.measure(k, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if s.perPacket <= 0 || s.arrived < leastPackets {
			t.Errorf("%v: %+v", k, s)
		}
	}
}

// TestCheckFails has a lane expect what a contender does not do.
func TestCheckFails(t *testing.T) {
	needRoot(t)
	c := only(contenders(programs{}), nameForward)[0]
	l, err := openLane(t.Context(), c, 3, []int{64})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, l)
	k := kind{inward, 64}
	for i := range l.calls {
		l.calls[i].Own++
	}
	err = l.armed(l.generators[k], k.direction, func() error { return l.check(k) })
	if err == nil {
		t.Error("packets with other Call IDs than those expected are right")
	}
}

func TestCalls(t *testing.T) {
	p := build(t)
	run := callRun{contenders: only(contenders(p), nameNAT, nameHelper, nameKernel, nameQueue), rounds: 1, window: 100 * time.Millisecond, trips: 20}
	result, err := run.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range run.contenders {
		if len(result.rate[c.name]) != 1 || result.rate[c.name][0] <= 0 || len(result.trips[c.name]) != 20 {
			t.Errorf("%s: %v calls/s, %d round trips", c.name, result.rate[c.name], len(result.trips[c.name]))
		}
	}
	if v := result.verdicts[nameKernel].quantile(0.5); !(v > 0) {
		t.Errorf("median verdict takes %v s", v)
	}
}

func TestCrowd(t *testing.T) {
	run := crowdRun{daemon: only(contenders(build(t)), nameKernel)[0]}
	c, err := run.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, c)
	if err := c.hold(300); err != nil {
		t.Fatal(err)
	}
	if _, err := c.restart(); err != nil {
		t.Fatal(err)
	}
	m, err := c.metrics()
	if err != nil {
		t.Fatal(err)
	}
	if m["pptpalg_calls"] != 300 || m["pptpalg_conntrack_entries_missing"] != 0 {
		t.Errorf("after a restart %v calls, %v entries missing", m["pptpalg_calls"], m["pptpalg_conntrack_entries_missing"])
	}
	w, err := c.weigh(time.Millisecond)
	if err != nil || w.heap <= 0 || w.resident < w.heap {
		t.Errorf("weighs %+v: %v", w, err)
	}
}

// TestCluster has the part of gateways that share their calls measure a moment of all. How fast they
// are does not matter.
func TestCluster(t *testing.T) {
	p := build(t)
	run := clusterRun{
		program: p.pptpalg, before: p.pptpalg, rounds: 1, window: 50 * time.Millisecond, trips: 5, pauses: 1, moves: 1, deaths: 1,
		outage: 300 * time.Millisecond, onset: 300 * time.Millisecond, calls: 400, watch: time.Millisecond, gateways: []int{1, 2},
	}
	r := &report{block: "cluster"}
	for _, part := range []func(context.Context, *report) error{run.measure, run.grow} {
		if err := part(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{nameAlone, nameShared, nameWarm, nameBefore, "around the death", "orderly", "400 calls", "writes of keys"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("the report says nothing of %q", want)
		}
	}
}

func TestSlope(t *testing.T) {
	if got := slope([]float64{1, 2, 4}, []float64{5, 8, 14}); math.Abs(got-3) > 1e-9 {
		t.Errorf("the slope is %v", got)
	}
}

func closeIt(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
