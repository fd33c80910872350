package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"pptpalg/cmd/internal/lab"
	"pptpalg/cmd/pptpalg/internal/config"
	"pptpalg/cmd/pptpalg/internal/datapath"
	"pptpalg/cmd/pptpalg/internal/gateway"
)

// configured writes a configuration file.
func configured(t *testing.T, text string) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "pptpalg.yaml")
	reconfigure(t, name, text)
	return name
}

func reconfigure(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.WriteFile(name, []byte(text), 0o644))
}

// TestEveryFlagIsAKey: whatever flag run has, the file has as a key, and the manual pages of
// both have it with its help.
func TestEveryFlagIsAKey(t *testing.T) {
	_, printed, _ := pptpalg(t, "config")
	keys := newSettings("").flags
	run := runCommand(env{lookup: func(string) (string, bool) { return "", false }})
	runPage, keyPage := commandPage(run), filePage(keys)
	run.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "config" {
			return
		}
		if keys.Lookup(f.Name) == nil || !strings.Contains(printed, "\n"+f.Name+": ") {
			t.Errorf("--%s is no key", f.Name)
		}
		if f.Usage == "" || !strings.Contains(runPage, roff("--"+f.Name)) || !strings.Contains(keyPage, bold(f.Name)) {
			t.Errorf("--%s is not documented", f.Name)
		}
	})
	for _, key := range append(append([]string{}, liveOptions...), tableOptions...) {
		if keys.Lookup(key) == nil {
			t.Errorf("%s, which a reload applies, is no key", key)
		}
	}
}

// TestFlagsOfTheRules: both commands have those that run has for the same.
func TestFlagsOfTheRules(t *testing.T) {
	want := []string{"queue", "ports", "bypass", "reset-lost", "reset-mark", "datapath", "gre-queue", "gre-queues", "gre-by-cpu", "gre-mark", "gre-label", "config"}
	for _, cmd := range rulesCommand().Commands() {
		var got []string
		cmd.Flags().SortFlags = false
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "format" && f.Name != "rules" { // of what is printed, and who loads
				got = append(got, f.Name)
			}
		})
		if diff := cmp.Diff(want, got); diff != "" && cmd.Name() != "unload" {
			t.Errorf("rules %s: %s", cmd.Name(), diff)
		}
	}
}

func TestConfigIsReadBack(t *testing.T) {
	changed := configured(t, "queue: 9\nports: [1723, 1724]\nrest: 30s\nlisten: \"\"\nlog-level: debug\n")
	for _, args := range [][]string{{}, {"--default"}, {"--config", changed}} {
		code, printed, stderr := pptpalg(t, append([]string{"config"}, args...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("config %q: exit %d: %s", args, code, stderr)
		}
		again := configured(t, printed)
		if code, stdout, stderr := pptpalg(t, "check-config", again); code != 0 || stdout != "ok\n" {
			t.Errorf("check-config of config %q: exit %d: %s", args, code, stderr)
		}
		if len(args) == 1 {
			continue
		}
		if _, twice, _ := pptpalg(t, "config", "--config", again); twice != printed {
			t.Errorf("config %q, read back: %s", args, cmp.Diff(printed, twice))
		}
	}
}

func TestBlankConfigSaysNothing(t *testing.T) {
	_, printed, _ := pptpalg(t, "config", "--default")
	for line := range strings.Lines(printed) {
		if line != "\n" && !strings.HasPrefix(line, "#") {
			t.Errorf("a line that is no comment: %s", line)
		}
	}
	if !strings.Contains(printed, "\n#queue: 1723\n") || !strings.Contains(printed, "\n#gre-queues: 0\n") {
		t.Errorf("defaults are missing, or this machine's:\n%s", printed)
	}
}

func TestCheckConfig(t *testing.T) {
	tests := []struct {
		name string
		file string
		want []string // without the file's name; none for "ok"
	}{
		{"empty", "", nil},
		{"good", "queue: 9\nports: [1723, 1724]\nbypass: mark:0x20\ndatapath: queue\nidle-timeout: 1h\nlisten: \"\"\n", nil},
		{"listening on a name's port", "listen: localhost:http\n", nil},
		{"the last queues", "datapath: queue\ngre-queue: 65535\ngre-queues: 1\n", nil},
		{"queue numbers that change places", "gre-queue: 1723\nqueue: 1700\ngre-queues: 2\n", nil},
		{"not even known", "max_calls: 5\n", []string{`1: unknown key "max_calls"; did you mean "max-calls"?`}},
		{"the file itself is no key", "config: x\n", []string{`1: unknown key "config"; did you mean "web-config"?`}},
		{"wrong choice", "rules: maybe\n", []string{`1: rules: "maybe" is not valid; use auto, nft, iptables or none`}},
		{"wrong path", "datapath: fast\n", []string{`1: datapath: "fast" is not valid; use auto, kernel or queue`}},
		{"wrong bypass", "bypass: label:200\n", []string{`1: bypass: "label:200" is not valid; use none, label:NUMBER with a number from 0 to 127, or mark:BITS with at least one bit, such as mark:0x10`}},
		{"wrong port", "ports: [70000]\n", []string{`1: ports: "70000" is not valid: 70000 is not a TCP port; use ports from 1 to 65535, such as 1723 or [1723, 1724]`}},
		{"port twice", "ports: [5, 5]\n", []string{`1: ports: "5,5" is not valid: validate ports: 5 given twice; use ports from 1 to 65535, such as 1723 or [1723, 1724]`}},
		{"wrong label", "gre-label: 128\n", []string{`1: gre-label: "128" is not valid: not a label; use a whole number from 0 to 127`}},
		{"no calls", "max-calls: 0\n", []string{`1: max-calls: "0" is not valid: less than 1; use a whole number, 1 or more`}},
		{"negative time", "rest: -1s\n", []string{`1: rest: "-1s" is not valid: less than 0; use a duration with its unit, such as 300ms, 90s, 2m or 1h30m`}},
		{"wrong level", "log-level: loud\n", []string{`1: log-level: "loud" is not valid; use debug, info, warn or error`}},
		{"no port to listen on", "listen: 127.0.0.1\n", []string{`1: listen: "127.0.0.1" is not valid; use ADDRESS:PORT, or "" for none`}},
		{"one queue for two", "queue: 9\ngre-queues: 1\ngre-queue: 9\n", []string{"3: validate data queues: 9 is the queue of control connections"}},
		{"a cluster", "cluster: etcd://h1:2379,h2:2379\ncluster-name: a\ncluster-insecure: true\ncluster-wait: 100ms\n", nil},
		{"a cluster, no scheme", "cluster: h1:2379\n", []string{`1: cluster: "h1:2379" is not valid: want etcd://HOST:PORT[,HOST:PORT...][/PREFIX]; use etcd://HOST:PORT[,HOST:PORT...], or "" for none`}},
		{"a cluster without TLS", "cluster: etcd://h1:2379\ncluster-name: a\n", []string{"1: --cluster needs --cluster-cert, --cluster-key and --cluster-ca, or --cluster-insecure"}},
		{"a cluster with and without TLS", "cluster: etcd://h1:2379\ncluster-name: a\ncluster-ca: f\ncluster-insecure: true\n", []string{"1: --cluster-insecure is for etcd without TLS: leave it out, or --cluster-cert, --cluster-key and --cluster-ca"}},
		{"a name that is none", "cluster-name: a b\n", []string{`1: cluster-name: "a b" is not valid: "a b" is not made of letters, digits, '.', '-' and '_'`}},
		{"waiting for ever", "cluster-wait: 1h\n", []string{`1: cluster-wait: "1h" is not valid: not from 1ms to 2s; use a time from 1ms to 2s`}},
		{"the daemon's lock", "max-calls: 5\nqueue: 61723\n", []string{"2: queue 61723 is the daemon's lock: choose other numbers with --queue and --gre-queue"}},
		{"a mark for two", "reset-mark: 2\nrest: 1s\nbypass: mark:0x2\n", []string{"3: validate reset mark: it shares bits with the mark of bypass, which CONNMARK --restore-mark copies to packets"}},
		{"a mark of all bits", "rest: 1s\ngre-mark: 0xffffffff\n", []string{"2: validate data mark: it leaves no bit free: give one bit"}},
		{"two faults of the same queues", "queue: 61723\ngre-queue: 61723\ngre-queues: 1\n", []string{
			"1: queue 61723 is the daemon's lock: choose other numbers with --queue and --gre-queue",
			"2: validate data queues: 61723 is the queue of control connections",
		}},
		{"several keys that do not go together", "cluster: etcd://h:1\ngre-queue: 1723\nqueue: 1723\nfastpath: xdp\ndatapath: queue\ncluster-share: 1/2\n", []string{
			"1: --cluster needs --cluster-cert, --cluster-key and --cluster-ca, or --cluster-insecure",
			"2: validate data queues: 1723 is the queue of control connections",
		}},
		{"a wrong key beside keys that do not go together", "export: [journald, journald]\ncluster: etcd://h:1\n", []string{
			`1: export: "journald,journald" is not valid: journald is given twice; use a list of collectors, such as [journald, "syslog+tls://log.example.net?ca=/etc/pptpalg/ca.pem"]`,
			"2: --cluster needs --cluster-cert, --cluster-key and --cluster-ca, or --cluster-insecure",
		}},
		{"more than one fault", "queue: x\n\nbypass: never\n", []string{
			`1: queue: "x" is not valid; use a whole number from 0 to 65535`,
			`3: bypass: "never" is not valid; use none, label:NUMBER with a number from 0 to 127, or mark:BITS with at least one bit, such as mark:0x10`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := configured(t, tt.file)
			code, stdout, stderr := pptpalg(t, "check-config", name)
			wantCode, wantOut, wantErr := 0, "ok\n", ""
			if tt.want != nil {
				wantCode, wantOut, wantErr = 1, "", name+":"+strings.Join(tt.want, "\n"+name+":")+"\n"
			}
			if code != wantCode || stdout != wantOut {
				t.Errorf("exit %d: %q", code, stdout)
			}
			if diff := cmp.Diff(wantErr, stderr); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConfigFileIsRefused(t *testing.T) {
	wrong := configured(t, "rest: 1\n")
	missing := filepath.Join(t.TempDir(), "none")
	for _, args := range [][]string{{"run"}, {"rules", "print"}, {"rules", "load"}, {"config"}, {"check-config"}} {
		flag := []string{"--config"}
		if args[0] == "check-config" {
			flag = nil
		}
		code, _, stderr := pptpalg(t, append(append(args, flag...), wrong)...)
		if code != 1 || !strings.HasPrefix(stderr, wrong+`:1: rest: "1" is not valid`) {
			t.Errorf("%q with a wrong file: exit %d: %s", args, code, stderr)
		}
		code, _, stderr = pptpalg(t, append(append(args, flag...), missing)...)
		if code != 1 || !strings.HasPrefix(stderr, "pptpalg: open "+missing) {
			t.Errorf("%q without the file: exit %d: %s", args, code, stderr)
		}
	}
}

// TestRulesFromTheFile: the rules are those of the daemon that reads the same file.
func TestRulesFromTheFile(t *testing.T) {
	file := configured(t, "queue: 9\nports: [5, 6]\nbypass: none\ndatapath: queue\ngre-queues: 1\ngre-mark: 0x80\nmax-calls: 3\n")
	_, fromFile, stderr := pptpalg(t, "rules", "print", "--config", file)
	_, fromFlags, _ := pptpalg(t, "rules", "print", "--config", "", "--queue", "9", "--ports", "5,6", "--bypass", "none", "--datapath", "queue", "--gre-queues", "1", "--gre-mark", "128")
	if diff := cmp.Diff(fromFlags, fromFile); diff != "" || fromFile == "" {
		t.Errorf("%s%s", stderr, diff)
	}
	_, both, _ := pptpalg(t, "rules", "print", "--config", file, "--queue", "77")
	if !strings.Contains(both, "--queue-num 77") || !strings.Contains(both, "--ctorigdstport 6 ") {
		t.Errorf("a flag beside the file:\n%s", both)
	}
}

// ran returns the settings of a command line of run that reads a file.
func ran(t *testing.T, args ...string) *settings {
	t.Helper()
	s := newSettings("/state")
	cmd := runCommand(env{lookup: os.LookupEnv})
	cmd.ResetFlags()
	s.addTo(cmd, s.flags)
	must(t, cmd.ParseFlags(args))
	must(t, s.read(cmd))
	return s
}

func TestFlagsWinOverTheFile(t *testing.T) {
	file := configured(t, "queue: 9\nports: [5, 6]\nmax-calls: 3\n")
	s := ran(t, "--config", file, "--ports", "7", "--ports", "8", "--max-calls", "4")
	cfg, err := s.daemon()
	must(t, err)
	if cfg.Queue != 9 || !cmp.Equal(cfg.Ports, []uint16{7, 8}) || cfg.Table.Calls != 4 || cfg.Table.CallsPerClient != 16384 {
		t.Errorf("%+v", cfg)
	}
	again, err := s.again()
	must(t, err)
	if diff := cmp.Diff(texts(s), texts(again)); diff != "" {
		t.Errorf("read again: %s", diff)
	}
}

func TestRandomIDs(t *testing.T) {
	for args, want := range map[string]bool{"--random-ids": true, "--random-ids=false": false} {
		cfg, err := ran(t, args).daemon()
		must(t, err)
		if got := cfg.Table.Random != nil; got != want {
			t.Errorf("%s: IDs are random: %v", args, got)
		}
	}
}

func texts(s *settings) map[string]string {
	found := make(map[string]string)
	s.flags.VisitAll(func(f *pflag.Flag) { found[f.Name] = config.Text(f) })
	return found
}

// reloading is a reloader whose daemon keeps what it is told.
type reloading struct {
	*reloader
	file string
	log  bytes.Buffer
	told []gateway.Config
}

func newReloading(t *testing.T, text string, args ...string) *reloading {
	r := &reloading{file: configured(t, text)}
	s := ran(t, append(args, "--config", r.file)...)
	level := new(slog.LevelVar)
	level.Set(s.logLevel)
	r.reloader = begun(s, &daemonLog{Logger: slog.New(slog.NewTextHandler(&r.log, nil)), level: level}, nil, time.Unix(1, 0))
	r.table = func(cfg gateway.Config) error {
		r.told = append(r.told, cfg)
		return nil
	}
	return r
}

// change reloads a changed file and returns what is logged, a line for each.
func (r *reloading) change(t *testing.T, text string) string {
	t.Helper()
	reconfigure(t, r.file, text)
	r.log.Reset()
	r.reload()
	var lines strings.Builder
	for line := range strings.Lines(r.log.String()) {
		_, line, _ = strings.Cut(line, " ") // the time
		lines.WriteString(strings.ReplaceAll(line, r.file, "FILE"))
	}
	return lines.String()
}

func TestReload(t *testing.T) {
	const broken = "level=ERROR msg=\"configuration not reloaded\" err="
	tests := []struct {
		name string
		args []string
		from string
		to   string
		log  string
		told int
	}{
		{"nothing", nil, "queue: 9\n", "queue: 9\n", "level=INFO msg=\"configuration reloaded\" applied=[]\n", 0},
		{"other words for the same", nil, "rest: 2m\nports: 5\n", "rest: 120s\nports: [5]\n", "level=INFO msg=\"configuration reloaded\" applied=[]\n", 0},
		{"the level", nil, "", "log-level: debug\n", "level=INFO msg=\"configuration reloaded\" applied=[log-level]\n", 0},
		{"limits", nil, "", "max-calls: 5\nidle-timeout: 1h\nrest: 1s\n", "level=INFO msg=\"configuration reloaded\" applied=\"[rest max-calls idle-timeout]\"\n", 1},
		{"a key that is gone", nil, "max-calls: 5\n", "", "level=INFO msg=\"configuration reloaded\" applied=[max-calls]\n", 1},
		{"what needs a restart", nil, "ports: [5, 6]\n", "queue: 9\nports: [5, 7]\nrandom-ids: true\nmax-calls: 5\n", "level=INFO msg=\"configuration reloaded\" applied=[max-calls]\nlevel=WARN msg=\"configuration needs a restart\" keys=\"[queue ports random-ids]\"\n", 1},
		{"a flag wins", []string{"--max-calls", "7", "--ports", "5,6"}, "", "max-calls: 5\nports: 3\n", "level=INFO msg=\"configuration reloaded\" applied=[]\n", 0},
		{"broken", nil, "", "max-calls: few\nlog-level: debug\nqeue: 1\n", broken + `"FILE:1: max-calls: \"few\" is not valid; use a whole number, 1 or more"` + "\n" + broken + `"FILE:3: unknown key \"qeue\"; did you mean \"queue\"?"` + "\n", 0},
		{"broken with the flags", []string{"--queue", "9", "--gre-queues", "1"}, "", "gre-queue: 9\nlog-level: debug\n", broken + "\"validate data queues: 9 is the queue of control connections\"\n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReloading(t, tt.from, tt.args...)
			before := texts(r.running)
			if diff := cmp.Diff(tt.log, r.change(t, tt.to)); diff != "" {
				t.Error(diff)
			}
			refused := strings.HasPrefix(tt.log, "level=ERROR")
			if last := *r.last.Load(); last.Good == refused || last.At.Equal(time.Unix(1, 0)) != refused || (last.Pending > 0) != strings.Contains(tt.log, "restart") {
				t.Errorf("the metrics tell %+v", last)
			}
			if len(r.told) != tt.told {
				t.Errorf("the daemon is told %+v", r.told)
			}
			if refused && !cmp.Equal(before, texts(r.running)) {
				t.Errorf("something changed: %s", cmp.Diff(before, texts(r.running)))
			}
		})
	}
}

// TestReloadChangesNothingElse: what waits for a restart is not told to the daemon, is
// named until it is taken back, and does not keep the rest from being applied.
func TestReloadChangesNothingElse(t *testing.T) {
	r := newReloading(t, "queue: 9\n")
	r.change(t, "queue: 10\nmax-calls: 5\nlog-level: warn\nstate-dir: /other\n")
	if len(r.told) != 1 || r.level.Level() != slog.LevelWarn {
		t.Fatalf("level %v, told %+v", r.level, r.told)
	}
	want, err := ran(t, "--config", configured(t, "queue: 9\nmax-calls: 5\nlog-level: warn\n")).daemon()
	must(t, err)
	if diff := cmp.Diff(want, r.told[0]); diff != "" {
		t.Error(diff)
	}
	if log := r.change(t, "queue: 10\nmax-calls: 5\n"); log != "level=INFO msg=\"configuration reloaded\" applied=[log-level]\nlevel=WARN msg=\"configuration needs a restart\" keys=[queue]\n" {
		t.Errorf("at the second reload:\n%s", log)
	}
	if log := r.change(t, "queue: 9\nmax-calls: 5\n"); log != "level=INFO msg=\"configuration reloaded\" applied=[]\n" {
		t.Errorf("when it is taken back:\n%s", log)
	}
}

func TestReloadRefusedByTheDaemon(t *testing.T) {
	r := newReloading(t, "")
	r.table = func(gateway.Config) error { return errors.New("not now") }
	if log := r.change(t, "max-calls: 5\nlog-level: debug\n"); log != "level=ERROR msg=\"configuration not reloaded\" err=\"not now\"\n" {
		t.Error(log)
	}
	if r.level.Level() != slog.LevelInfo || r.running.flags.Lookup("max-calls").Value.String() == "5" {
		t.Error("half of it was applied")
	}
}

func TestReloadWithoutTheDaemon(t *testing.T) {
	r := newReloading(t, "")
	r.table = nil
	if log := r.change(t, "max-calls: 5\n"); !strings.HasSuffix(log, "level=WARN msg=\"configuration needs a restart\" keys=[max-calls]\n") {
		t.Error(log)
	}
}

func TestReloadOfAFileThatIsGone(t *testing.T) {
	r := newReloading(t, "max-calls: 5\n")
	must(t, os.Remove(r.file))
	r.reload()
	if !strings.Contains(r.log.String(), "configuration not reloaded") || r.running.table.Calls != 5 {
		t.Error(r.log.String())
	}
}

// TestHangup: SIGHUP applies the file to a running daemon, whose calls go on.
func TestHangup(t *testing.T) {
	file := configured(t, "")
	g := startGateway(t, datapath.Kernel, masquerade(2), "--config", file)
	g.server(lab.Behaviour{Refuse: true})
	calls := []*lab.Call{callOn(t, g.client(0), 7), callOn(t, g.client(1), 7)}
	exchange(t, calls...)
	for i, step := range []struct {
		file, log string
		times     int // that it has been logged then
	}{
		{"log-level: debug\nlisten: 127.0.0.1:1\n", "keys=[listen]", 1},
		{"log-level: loud\n", file + ":1: log-level", 1},
		{"log-level: info\n", "applied=[log-level]", 2},
	} {
		reconfigure(t, file, step.file)
		must(t, g.daemon.Signal(syscall.SIGHUP))
		if err := lab.Poll(lab.Patience, func() bool { return strings.Count(g.log.String(), step.log) == step.times }); err != nil {
			t.Fatalf("step %d: %v: %s", i, err, g.log)
		}
		exchange(t, calls...)
	}
	g.wantCalls(2)
	g.stop()
}
