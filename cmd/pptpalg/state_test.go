package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// complete is the metric that tells whether the journal has all calls.
const complete = "pptpalg_journal_complete"

// TestUnusableStateDirectory: the daemon starts all the same, edits, counts, and writes its
// journal and answers on its socket as soon as it can.
func TestUnusableStateDirectory(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, g *testGateway) (mend func())
	}{
		{"cannot be made", func(t *testing.T, g *testGateway) func() {
			inTheWay := filepath.Join(t.TempDir(), "in the way")
			must(t, os.WriteFile(inTheWay, nil, 0o600))
			g.state = filepath.Join(inTheWay, "state")
			return func() { must(t, os.Remove(inTheWay)) }
		}},
		{"full", func(t *testing.T, g *testGateway) func() {
			g.state = smallDisk(t, "64k")
			fill := fillDisk(t, g.state)
			return func() { must(t, os.Remove(fill)) }
		}},
		{"no room for a file", func(t *testing.T, g *testGateway) func() {
			g.state = smallDisk(t, "64k,nr_inodes=2")
			fill := filepath.Join(g.state, "fill")
			must(t, os.WriteFile(fill, nil, 0o600))
			return func() { must(t, unix.Mount("none", g.state, "", unix.MS_REMOUNT, "nr_inodes=0")) }
		}},
		{"read-only", func(t *testing.T, g *testGateway) func() {
			g.state = smallDisk(t, "64k")
			must(t, unix.Mount("none", g.state, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			return func() { must(t, unix.Mount("none", g.state, "", unix.MS_REMOUNT, "")) }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := buildGateway(t, datapath.Kernel, masquerade(2))
			mend := tt.prepare(t, g)
			g.start()
			g.server(lab.Behaviour{})
			calls := []*lab.Call{callOn(t, g.client(0), 7)}
			exchange(t, calls...)
			if g.metric(complete) != "0" || g.metric("pptpalg_journal_errors_total") == "0" {
				t.Errorf("complete: %s, %s errors", g.metric(complete), g.metric("pptpalg_journal_errors_total"))
			}
			must(t, g.log.WaitFor("journal", lab.Patience))
			mend()
			if err := lab.Poll(lab.Patience, func() bool { return g.metric(complete) == "1" }); err != nil {
				t.Fatalf("the journal is not written: %s", g.log)
			}
			answers := func() bool { return g.callsOrNone() == 1 }
			if err := lab.Poll(lab.Patience, answers); err != nil {
				t.Error("nobody answers on the socket")
			}
			g.kill()
			g.start()
			g.wantCalls(1)
			calls = append(calls, callOn(t, g.client(1), 7))
			exchange(t, calls...)
			g.stop()
		})
	}
}

// callsOrNone returns how many calls the daemon tells of, -1 if nobody answers.
func (g *testGateway) callsOrNone() int {
	code, stdout, _ := pptpalg(g.t, "calls", "--json", "--state-dir", g.state)
	if code != 0 {
		return -1
	}
	var all []any
	decode(g.t, stdout, &all)
	return len(all)
}

// TestStateDirectoryFillsUp while calls come and go: they do not notice, and a daemon that is
// killed after there is room again has left all it knew.
func TestStateDirectoryFillsUp(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(2))
	g.state = smallDisk(t, "64k")
	g.start()
	g.server(lab.Behaviour{})
	first := callOn(t, g.client(0), 7)
	fill := fillDisk(t, g.state)
	c := g.client(1)
	for range 30 {
		call := callOn(t, c, 7)
		must(t, call.Clear())
		_, err := c.Expect(lab.CallDisconnectNotify, lab.Patience)
		must(t, err)
	}
	second := callOn(t, c, 7)
	exchange(t, first, second)
	if err := lab.Poll(lab.Patience, func() bool { return g.metric(complete) == "0" }); err != nil {
		t.Error("the journal is said to be complete")
	}
	must(t, os.Remove(fill))
	must(t, lab.Poll(lab.Patience, func() bool { return g.metric(complete) == "1" }))
	g.kill()
	g.start()
	g.wantCalls(2)
	exchange(t, first, second)
	g.stop()
}

// TestFrozenStateDirectory: a disk that does not answer holds up no control connection, and
// the journal has everything when it is back.
func TestFrozenStateDirectory(t *testing.T) {
	g := buildGateway(t, datapath.Kernel, masquerade(2))
	g.state = freezable(t)
	g.start()
	g.server(lab.Behaviour{})
	first := callOn(t, g.client(0), 7)
	must(t, exec.Command("fsfreeze", "-f", g.state).Run())
	thaw := func() { _ = exec.Command("fsfreeze", "-u", g.state).Run() } // it may have been done
	defer thaw()
	c := g.client(1)
	began := time.Now()
	var calls []*lab.Call
	for range 20 {
		call := callOn(t, c, 7)
		must(t, call.Clear())
		_, err := c.Expect(lab.CallDisconnectNotify, lab.Patience)
		must(t, err)
	}
	calls = append(calls, first, callOn(t, c, 7))
	exchange(t, calls...)
	if took := time.Since(began); took > lab.Patience {
		t.Errorf("21 calls took %v", took)
	}
	if g.metric(complete) != "0" {
		t.Error("the journal is said to be complete")
	}
	thaw()
	must(t, lab.Poll(lab.Patience, func() bool { return g.metric(complete) == "1" }))
	g.kill()
	g.start()
	g.wantCalls(2)
	exchange(t, calls...)
	g.stop()
}

// freezable returns a directory on an ext4 file system of its own.
func freezable(t *testing.T) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 8<<20))
	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() { must(t, exec.Command("umount", "-l", dir).Run()) })
	return dir
}

// TestJournalLost: a daemon that finds no journal takes up the calls for which the kernel still
// translates, and gives none of their Call IDs to others.
func TestJournalLost(t *testing.T) {
	tests := []struct {
		name        string
		connections int // of the first client, with as many calls
		known       int // calls afterwards
	}{
		{"one connection", 1, 1},
		{"two connections between the same ends", 2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := startGateway(t, datapath.Kernel, masquerade(2))
			g.server(lab.Behaviour{Refuse: true})
			var clients []*lab.Client
			var calls []*lab.Call
			for i := range tt.connections {
				clients = append(clients, g.client(0))
				calls = append(calls, callOn(t, clients[i], pptp.CallID(7+i)))
			}
			exchange(t, calls...)
			g.kill()
			must(t, os.Remove(filepath.Join(g.state, "calls.journal")))
			g.start()
			g.wantCalls(tt.known)
			exchange(t, calls...)
			second := g.client(1)
			for i := range tt.connections {
				calls = append(calls, callOn(t, second, pptp.CallID(7+i)))
			}
			exchange(t, calls...)
			if tt.known == 0 {
				g.wantEntries(4 * tt.connections)
				return
			}
			must(t, clients[0].Close())
			g.wantCalls(1)
			g.wantEntries(2)
			exchange(t, calls[1:]...)
		})
	}
}
