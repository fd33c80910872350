package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

const unitFile = "../../deploy/pptpalg.service"

// The uid and gid that stand for user and group pptpalg, and a uid that is neither
// root's nor theirs.
const (
	daemonID   = "65534"
	strangerID = "65533"
)

// unit is a systemd unit: the values of each key, in their order.
type unit map[string][]string

func readUnit(t *testing.T) unit { return readUnitFile(t, unitFile) }

func readUnitFile(t *testing.T, name string) unit {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	u := make(unit)
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// one returns the value of a key that the unit sets once.
func (u unit) one(t *testing.T, key string) string {
	t.Helper()
	if len(u[key]) != 1 {
		t.Fatalf("%s sets %s %d times: %q", unitFile, key, len(u[key]), u[key])
	}
	return u[key][0]
}

// command returns the arguments of the first command of a key, and whether it has all
// rights of root. Variables are replaced as systemd.service(5) says: ${V} within a
// word, $V by any number of words.
func (u unit) command(t *testing.T, key string, variables map[string]string) (args []string, root bool) {
	t.Helper()
	if len(u[key]) == 0 {
		t.Fatalf("%s does not set %s", unitFile, key)
	}
	line, root := strings.CutPrefix(u[key][0], "+")
	words := strings.Fields(line)
	if program := u.one(t, "ExecPaths"); words[0] != program {
		t.Errorf("%s runs %s, ExecPaths allows %s", key, words[0], program)
	}
	for _, w := range words[1:] {
		if name, ok := strings.CutPrefix(w, "$"); ok && !strings.HasPrefix(name, "{") {
			args = append(args, strings.Fields(variables[name])...)
			continue
		}
		args = append(args, os.Expand(w, func(name string) string { return variables[name] }))
	}
	return args, root
}

// variables are what the unit sets itself, before /etc/default/pptpalg.
func (u unit) variables(t *testing.T) map[string]string {
	t.Helper()
	set := make(map[string]string)
	for _, assignment := range strings.Fields(u.one(t, "Environment")) {
		name, value, _ := strings.Cut(assignment, "=")
		set[name] = value
	}
	return set
}

// TestUnitAndCommandLineAgree has the program's own parser read the unit's commands.
func TestUnitAndCommandLineAgree(t *testing.T) {
	u := readUnit(t)
	custom := map[string]string{"RULES": "--queue 9 --ports 1723,1724 --datapath=queue", "OPTIONS": "--listen 127.0.0.1:1 --log-level debug"}
	tests := []struct {
		key     string
		set     map[string]string
		command string
		root    bool
		flags   map[string]string
	}{
		{"ExecStart", u.variables(t), "pptpalg run", false, map[string]string{"rules": "auto", "queue": "1723", "ports": "[1723]", "datapath": "auto"}},
		{"ExecStopPost", u.variables(t), "pptpalg rules unload", false, nil},
		{"ExecReload", u.variables(t), "pptpalg check-config", false, nil},
		{"ExecStart", custom, "pptpalg run", false, map[string]string{"rules": "auto", "queue": "9", "ports": "[1723,1724]", "datapath": "queue", "listen": "127.0.0.1:1", "log-level": "DEBUG"}},
	}
	for _, tt := range tests {
		t.Run(tt.key, func(t *testing.T) {
			args, root := u.command(t, tt.key, tt.set)
			if root != tt.root {
				t.Errorf("has the rights of root: %v, want %v", root, tt.root)
			}
			cmd := parsed(t, args)
			if cmd.CommandPath() != tt.command || !cmd.Runnable() {
				t.Errorf("%q is %s, want %s", args, cmd.CommandPath(), tt.command)
			}
			for name, want := range tt.flags {
				if got := cmd.Flag(name).Value.String(); got != want {
					t.Errorf("--%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}

// TestUnitLeavesTheFileItsSay: a flag wins over the configuration file, so the unit has none.
func TestUnitLeavesTheFileItsSay(t *testing.T) {
	u := readUnit(t)
	args, _ := u.command(t, "ExecStart", u.variables(t))
	parsed(t, args).Flags().Visit(func(f *pflag.Flag) { t.Errorf("ExecStart has --%s", f.Name) })
}

// TestUnitReload: the signal comes after the check.
func TestUnitReload(t *testing.T) {
	got := readUnit(t)["ExecReload"]
	if len(got) != 2 || got[1] != "+/bin/kill -HUP $MAINPID" {
		t.Errorf("ExecReload is %q", got)
	}
}

// parsed returns the command that a command line names, with its flags set, and
// does not run it.
func parsed(t *testing.T, args []string) *cobra.Command {
	t.Helper()
	root := &cobra.Command{Use: "pptpalg"}
	e := env{lookup: os.LookupEnv}
	root.AddCommand(runCommand(e), rulesCommand(), fastpathCommand(e), checkConfigCommand())
	cmd, rest, err := root.Find(args)
	must(t, err)
	must(t, cmd.ParseFlags(rest))
	must(t, cmd.ValidateArgs(cmd.Flags().Args()))
	return cmd
}

// managed is a gateway whose daemon is run as the unit says, by a test that acts
// as systemd.
type managed struct {
	*testGateway
	unit    unit
	manager *manager
	program string // a copy that every user may execute
}

func manageGateway(t *testing.T, path datapath.Name, o lab.Options) *managed {
	t.Helper()
	m := &managed{testGateway: buildGateway(t, path, o), unit: readUnit(t), manager: listenAsManager(t)}
	must(t, lab.Need("setpriv"))
	endQuickly(t)
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // t.TempDir is for its user alone
	m.program = filepath.Join(dir, "pptpalg")
	copyProgram(t, m.program)
	m.state = filepath.Join(dir, "run")
	m.makeRuntimeDirectory()
	return m
}

// endQuickly has programs that are built with the race detector not wait for a
// second when they end.
func endQuickly(t *testing.T) {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0")
}

// variables are the unit's, and what /etc/default/pptpalg would add.
func (m *managed) variables() map[string]string {
	set := m.unit.variables(m.t)
	set["RULES"] = "--datapath=" + string(m.path)
	return set
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open(os.Args[0])
	must(t, err)
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(f, from)
	must(t, errors.Join(err, f.Close()))
}

func (m *managed) makeRuntimeDirectory() {
	m.t.Helper()
	var mode os.FileMode
	_, err := fmt.Sscanf(m.unit.one(m.t, "RuntimeDirectoryMode"), "%o", &mode)
	must(m.t, err)
	must(m.t, os.Mkdir(m.state, mode))
	var id int
	_, err = fmt.Sscan(daemonID, &id)
	must(m.t, errors.Join(err, os.Chown(m.state, id, id)))
}

// rights are setpriv's arguments for a process of a user and a group with some
// capabilities and no others: "CAP_NET_ADMIN", or "" for none.
func rights(uid, gid, capabilities string) []string {
	only := "-all"
	for _, c := range strings.Fields(capabilities) {
		only += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return []string{
		"--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs",
		"--inh-caps", only, "--ambient-caps", only, "--bounding-set", only,
	}
}

// prepare makes a command of the program's, to be run in the gateway with rights of
// setpriv's, nil for those of root.
func (m *managed) prepare(rights, args []string) *exec.Cmd {
	m.t.Helper()
	line := append([]string{m.program}, args...)
	if rights != nil {
		line = slices.Concat([]string{"setpriv"}, rights, line)
	}
	cmd, err := m.Gateway.Command(context.Background(), line[0], line[1:]...)
	must(m.t, err)
	cmd.Env = append(os.Environ(), asProgram+"=1", "RUNTIME_DIRECTORY="+m.state)
	return cmd
}

// unitCommand runs one of the unit's commands to its end.
func (m *managed) unitCommand(key string) {
	m.t.Helper()
	args, root := m.unit.command(m.t, key, m.variables())
	if root {
		m.t.Fatalf("%s has the rights of root", key)
	}
	m.mustRun(key, m.prepare(rights(daemonID, daemonID, m.unit.one(m.t, "AmbientCapabilities")), args))
}

func (m *managed) mustRun(what string, cmd *exec.Cmd) {
	m.t.Helper()
	log := new(lab.Log)
	cmd.Stderr = log
	p, err := m.Gateway.Start(cmd)
	must(m.t, err)
	if err := p.Wait(lab.Patience); err != nil {
		m.t.Fatalf("%s: %v: %s", what, err, log)
	}
}

// start does what systemd does to start the unit.
func (m *managed) start(environment ...string) {
	m.t.Helper()
	args, root := m.unit.command(m.t, "ExecStart", m.variables())
	capabilities := m.unit.one(m.t, "AmbientCapabilities")
	if bound := m.unit.one(m.t, "CapabilityBoundingSet"); root || capabilities != bound {
		m.t.Fatalf("the daemon has the rights of root: %v; capabilities %q of %q", root, capabilities, bound)
	}
	ready := m.manager.count("READY=1")
	m.run(m.prepare(rights(daemonID, daemonID, capabilities), args), environment...)
	must(m.t, lab.Poll(lab.Patience, func() bool { return m.manager.count("READY=1") > ready }))
	m.letRead()
}

// letRead runs the unit's command by which the daemon's group may read what the kernel
// counts of queues.
func (m *managed) letRead() {
	m.t.Helper()
	commands := m.unit["ExecStartPost"]
	line, root := strings.CutPrefix(commands[len(commands)-1], "+-")
	words := strings.Fields(line)
	if !root || len(commands) != 1 || len(words) != 3 || words[1] != m.unit.one(m.t, "Group") {
		m.t.Fatalf("ExecStartPost is %q", commands)
	}
	words[1] = daemonID
	cmd, err := m.Gateway.Command(context.Background(), words[0], words[1:]...)
	must(m.t, err)
	m.mustRun(line, cmd)
}

// run starts the daemon.
func (m *managed) run(cmd *exec.Cmd, environment ...string) {
	m.t.Helper()
	m.log = new(lab.Log)
	cmd.Stderr = m.log
	cmd.Env = append(append(cmd.Env, "NOTIFY_SOCKET="+m.manager.path), environment...)
	var err error
	m.daemon, err = m.Gateway.Start(cmd)
	must(m.t, err)
	log := m.log
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("daemon: %s", log)
		}
	})
}

// stop does what systemd does to stop the unit.
func (m *managed) stop() {
	m.t.Helper()
	m.testGateway.stop()
	m.unitCommand("ExecStopPost")
}

// TestUnit has the main job done with the rights that the unit gives, and no others.
func TestUnit(t *testing.T) {
	t.Run(string(datapath.Queue), func(t *testing.T) { testUnit(t, datapath.Queue) })
	if !testing.Short() {
		t.Run(string(datapath.Kernel), func(t *testing.T) { testUnit(t, datapath.Kernel) })
	}
}

func testUnit(t *testing.T, path datapath.Name) {
	m := manageGateway(t, path, masquerade(2))
	m.start()
	m.wantRights()
	if !m.hasRules() {
		t.Errorf("rules while it runs:\n%s", m.rules())
	}
	s := m.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, m.client(0), 7), callOn(t, m.client(1), 7)}
	exchange(t, calls...)
	if seen := s.Calls(); seen[0].Peer == seen[1].Peer {
		t.Errorf("the server sees %+v", seen)
	}
	m.wantEntries(4)
	m.wantDepths(true)
	m.stop()
	if m.hasRules() {
		t.Errorf("rules after its end:\n%s", m.rules())
	}
	if path == datapath.Kernel {
		exchange(t, calls...)
	}
	// It starts again over what it left behind.
	m.start()
	exchange(t, append(calls, callOn(t, m.client(0), 9))...)
	if strings.Contains(m.log.String(), "level=ERROR") {
		t.Errorf("the daemon says: %s", m.log)
	}
}

// wantDepths wants the metrics to tell what waits in the control queue, or not to.
func (m *managed) wantDepths(known bool) {
	m.t.Helper()
	got := m.metric(`pptpalg_queue_waiting{queue="control"}`)
	if _, err := strconv.ParseUint(got, 10, 64); (err == nil) != known {
		m.t.Errorf("%q packets wait, want a number: %v", got, known)
	}
}

// wantRights reads what the kernel says the daemon may do.
func (m *managed) wantRights() {
	m.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.daemon.PID()))
	must(m.t, err)
	const netAdmin = "0000000000001000" // 1 << CAP_NET_ADMIN
	for key, want := range map[string]string{
		"Uid": strings.Join([]string{daemonID, daemonID, daemonID, daemonID}, "\t"), "NoNewPrivs": "1",
		"CapInh": netAdmin, "CapPrm": netAdmin, "CapEff": netAdmin, "CapBnd": netAdmin, "CapAmb": netAdmin,
	} {
		if !strings.Contains(string(b), "\n"+key+":\t"+want+"\n") {
			m.t.Errorf("%s is not %s in:\n%s", key, want, b)
		}
	}
}

// TestUnitAfterACrash: ExecStop does not run then, ExecStopPost does.
func TestUnitAfterACrash(t *testing.T) {
	m := manageGateway(t, datapath.Auto, masquerade(1))
	m.start()
	m.server(lab.Behaviour{})
	call := callOn(t, m.client(0), 7)
	must(t, m.daemon.Signal(syscall.SIGABRT)) // as the watchdog does
	if err := m.daemon.Wait(lab.Patience); err == nil {
		t.Error("SIGABRT did not end the daemon")
	}
	must(t, m.log.WaitFor("goroutine ", lab.Patience))
	m.unitCommand("ExecStopPost")
	if m.hasRules() {
		t.Errorf("rules after its end:\n%s", m.rules())
	}
	exchange(t, call)
}

// TestRulesOfADaemonWithoutRoot: iptables-nft needs CAP_NET_ADMIN and no more.
func TestRulesOfADaemonWithoutRoot(t *testing.T) {
	m := manageGateway(t, datapath.Auto, masquerade(1))
	must(t, lab.Need("iptables-nft"))
	m.run(m.prepare(rights(daemonID, daemonID, "CAP_NET_ADMIN"), []string{"run", "--rules", "iptables"}))
	must(t, lab.Poll(lab.Patience, func() bool { return m.manager.count("READY=1") == 1 }))
	m.wantDepths(false) // as nobody has let it read them
	if !m.hasRules() {
		t.Errorf("rules while it runs:\n%s", m.rules())
	}
	m.testGateway.stop()
	if m.hasRules() {
		t.Errorf("rules after its end:\n%s", m.rules())
	}
}

// TestWhoMayAsk: root and the daemon's group.
func TestWhoMayAsk(t *testing.T) {
	m := manageGateway(t, datapath.Auto, masquerade(1))
	m.start()
	m.server(lab.Behaviour{})
	callOn(t, m.client(0), pptp.CallID(7))
	tests := []struct {
		name     string
		rights   []string
		allowed  bool
		complain string
	}{
		{"root", nil, true, ""},
		{"the daemon's user", rights(daemonID, daemonID, ""), true, ""},
		{"a member of its group", rights(strangerID, daemonID, ""), true, ""},
		{"a stranger", rights(strangerID, strangerID, ""), false, "permission denied: run as root or as a member of the daemon's group"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := m.prepare(tt.rights, []string{"calls"})
			stdout, stderr := new(lab.Log), new(lab.Log)
			cmd.Stdout, cmd.Stderr = stdout, stderr
			p, err := m.Gateway.Start(cmd)
			must(t, err)
			if err := p.Wait(lab.Patience); (err == nil) != tt.allowed {
				t.Errorf("ended with %v: %s", err, stderr)
			}
			if got := strings.Contains(stdout.String(), "10.77.0.10/7"); got != tt.allowed {
				t.Errorf("prints the call: %v: %s", got, stdout)
			}
			if !strings.Contains(stderr.String(), tt.complain) {
				t.Errorf("complains %q, want %q", stderr, tt.complain)
			}
		})
	}
}
