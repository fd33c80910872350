package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/schema"
	"pptpalg/cmd/pptpalg/internal/status"
	"pptpalg/rules/choice"
	"pptpalg/rules/nft"
)

// stoppedCode is the exit code of status where no daemon runs, as of init scripts (LSB).
const stoppedCode = 3

// The states of a gateway, in one word.
const (
	stateOK      = "ok"
	stateWarning = "warning"
	stateProblem = "problem"
	stateStopped = "stopped"
)

// statusReport is what status tells.
type statusReport struct {
	SchemaVersion schema.Version  `json:"schema_version"`
	State         string          `json:"state"`                // ok, warning, problem or stopped
	Problems      []statusProblem `json:"problems"`             // the first one explains the others most likely; warnings where there is nothing worse
	Checked       bool            `json:"checked"`              // the gateway was checked, as "pptpalg check" does
	Warnings      int             `json:"warnings"`             // of that check
	Daemon        *status.Status  `json:"daemon"`               // null where it does not answer
	Trouble       *int            `json:"clients_with_trouble"` // now or in the last hour; null where it was not asked for

	worst string // of the clients with trouble
	found int    // problems, by the check
}

// statusProblem is something wrong, and the command that fixes it, if there is one.
type statusProblem struct {
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

func statusCommand(e env) *cobra.Command {
	var o output
	judge := true
	s := newSettings(stateDir(e))
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the gateway's state on one screen",
		Long: `Show the gateway's state on one screen. The first line says whether all is well, or what
is wrong and which command fixes it. Below it: the firewall rules (who has loaded them,
since when), the data path, the cluster, the calls by state, including those that carry
traffic one way only or none, how much of each limit is in use, the last error that the
daemon has logged, and how many clients have trouble ("pptpalg explain --all").

It asks the running daemon. As root it also runs the checks of "pptpalg check", so that it
names causes that the daemon cannot see. That takes some tenths of a second;
--check=false skips it.

Exit code: 0 if all is well or check only warns, 1 if something is wrong, 2 if the command
line is wrong, 3 if no daemon runs; then the first line also says what keeps it from
starting, if that can be determined.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = s.read(cmd) // a faulty file is among the problems
			r, err := s.statusOf(cmd.Context(), judge)
			if err != nil {
				return err
			}
			if o.structured() {
				err = o.print(cmd.OutOrStdout(), r)
			} else {
				err = r.print(cmd.OutOrStdout(), terminalOf(cmd.OutOrStdout(), e.lookup), time.Now())
			}
			if err != nil {
				return err
			}
			return r.verdict()
		},
	}
	o.addTo(cmd, formText, formJSON, formYAML)
	cmd.Flags().BoolVar(&judge, "check", judge, "as root, also check the gateway")
	cmd.Flags().AddFlagSet(s.some("state-dir"))
	cmd.Flags().StringVar(&s.file, "config", configFile, `configuration file of the daemon; "" for none. The default file need not exist`)
	return cmd
}

// statusOf asks the daemon and, if judge is set, checks the gateway.
func (s *settings) statusOf(ctx context.Context, judge bool) (statusReport, error) {
	r := statusReport{State: stateOK, Problems: []statusProblem{}}
	var st status.Status
	away, err := answering(ctx, answerTime, func(ctx context.Context) error { return admin.Client{StateDir: s.stateDir}.Status(ctx, &st) })
	switch {
	case err != nil:
		return r, err
	case away != nil:
		r.miss(away, s.findings(ctx, judge && away.stopped && os.Geteuid() == 0))
	default:
		r.Daemon = &st
		r.ask(ctx, s.stateDir)
		r.take(st, s.findings(ctx, judge && sameNetwork(ctx, s.stateDir)))
	}
	return r, nil
}

// fewCalls is up to how many calls each client is looked at: that takes some tenths of a second.
const fewCalls = 5000

// ask asks for the clients that have trouble.
func (r *statusReport) ask(ctx context.Context, stateDir string) {
	if r.Daemon.Sums == nil || r.Daemon.Sums.Calls.All > fewCalls {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime/2)
	defer cancel()
	all, err := admin.Client{StateDir: stateDir}.ExplainAll(ctx)
	if err != nil {
		return // the rest is told without it
	}
	n := len(all)
	if r.Trouble = &n; n > 0 {
		r.worst = fmt.Sprintf("%v: %s", all[0].Client, all[0].Causes[0].Text)
	}
}

// troubled is the line about clients.
func (r *statusReport) troubled() string {
	switch {
	case r.Trouble == nil:
		return `not checked: "pptpalg explain --all" lists those with trouble`
	case *r.Trouble == 0:
		return "none has had trouble in the last hour"
	case *r.Trouble == 1:
		return fmt.Sprintf("1 has trouble, or has had it in the last hour: %s", r.worst)
	}
	return fmt.Sprintf("%d have trouble, or have had it in the last hour (\"pptpalg explain --all\"); the worst is %s", *r.Trouble, r.worst)
}

// miss takes that no daemon answers, and what is wrong beside that.
func (r *statusReport) miss(a *absence, found check.Findings) {
	r.State = stateProblem
	if a.stopped {
		r.State = stateStopped
	}
	r.Checked, r.Warnings = found != nil, found.Count(check.Warning)
	a.because(found)
	r.add(a.Text, a.Advice)
	for _, f := range found {
		if f.Result == check.Problem && f.Check != a.told {
			r.add(f.Found, f.Remedy)
		}
	}
}

// findings are what check finds, nil if that is not wanted or cannot be known.
func (s *settings) findings(ctx context.Context, judge bool) check.Findings {
	if !judge {
		return nil
	}
	cfg, err := s.setup(ctx)
	if err != nil {
		return nil // the daemon runs with flags that are no longer valid
	}
	return check.Run(ctx, cfg)
}

// take puts the problems in an order: what keeps the daemon from its work, then what keeps
// the gateway from carrying calls, then what is wrong with calls.
func (r *statusReport) take(st status.Status, found check.Findings) {
	r.Checked, r.Warnings, r.found = found != nil, found.Count(check.Warning), found.Count(check.Problem)
	own := st.Problems
	if len(own) > 0 && (!st.Ready || st.Rules.Contested) {
		r.add(own[0], remedyOf(&st, own[0], found))
		own = own[1:]
	}
	for _, f := range found {
		if f.Result == check.Problem && (f.Check != "daemon" || st.Ready && !st.Rules.Contested) {
			r.add(f.Found, f.Remedy)
		}
	}
	for _, text := range own {
		r.add(text, remedyOf(&st, text, nil))
	}
	if len(r.Problems) > 0 {
		r.State = stateProblem
		return
	}
	for _, f := range found {
		if f.Result == check.Warning {
			r.State = stateWarning
			r.add(f.Found, f.Remedy)
		}
	}
}

// findRemover is what to do about a program that keeps removing the rules: to load them again
// does not help.
const findRemover = `find out which program that is ("nft monitor" names those that change rules), and stop it; or make it load the rules ("pptpalg rules print") and run the daemon with --rules none`

// remedyOf is what to do about a problem that the daemon tells.
func remedyOf(st *status.Status, text string, found check.Findings) string {
	switch {
	case !st.Rules.Contested:
		return remedyFor(found, "daemon")
	case strings.Contains(text, status.KeepsRemoving):
		return findRemover
	}
	return ""
}

// remedyFor is what fixes the problem that a check has found, "" if it has found none.
func remedyFor(found check.Findings, name string) string {
	for _, f := range found {
		if f.Check == name && f.Result == check.Problem {
			return f.Remedy
		}
	}
	return ""
}

func (r *statusReport) add(text, remedy string) {
	r.Problems = append(r.Problems, statusProblem{text, remedy})
}

// verdict is the exit code. The reason was printed.
func (r *statusReport) verdict() error {
	switch r.State {
	case stateOK, stateWarning:
		return nil
	case stateStopped:
		return codeError{code: stoppedCode, text: "status: no daemon is running"}
	}
	return codeError{code: 1, text: "status: " + number(len(r.Problems), "problem")}
}

// print prints the report for people.
func (r *statusReport) print(w io.Writer, term terminal, now time.Time) error {
	var b bytes.Buffer
	word, colour := "OK", goodTone
	if r.State != stateOK {
		word, colour = strings.ToUpper(r.State), badTone
	}
	if r.State == stateWarning {
		colour = warnTone
	}
	if term.coloured {
		word = colours[colour] + word + plainAgain
	}
	first := "all is well"
	if len(r.Problems) > 0 {
		first = r.Problems[0].lines()
	}
	fmt.Fprintf(&b, "%s: %s\n", word, first)
	for _, p := range r.Problems[min(1, len(r.Problems)):] {
		fmt.Fprintf(&b, "also: %s\n", p.lines())
	}
	if r.Daemon != nil {
		b.WriteString("\n")
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, l := range statusLines(r.Daemon, now) {
			fmt.Fprintf(t, "%s\t%s\n", l[0], l[1])
		}
		fmt.Fprintf(t, "clients\t%s\n", r.troubled())
		fmt.Fprintf(t, "check\t%s\n", r.checked())
		t.Flush()
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("print status: %w", err)
	}
	return nil
}

func (p statusProblem) lines() string {
	text := strings.ReplaceAll(p.Text, "\n", "\n  ")
	if p.Remedy == "" {
		return text
	}
	return text + "\n  -> " + p.Remedy
}

func (r *statusReport) checked() string {
	switch {
	case !r.Checked:
		return `not run: as root, "pptpalg check" examines the gateway's firewall, NAT and kernel`
	case r.Warnings > 0 && r.State != stateWarning:
		return number(r.Warnings, "warning") + `: see "pptpalg check"`
	case r.found > 0:
		return number(r.found, "problem") + ": see above"
	case r.State == stateProblem:
		return "no other problem found"
	}
	return "no problem found"
}

// statusLines are what is told of a daemon: what it is, and how it is.
func statusLines(st *status.Status, now time.Time) [][2]string {
	lines := [][2]string{
		{"version", st.Version + running(st, now)},
		{"rules", rulesLine(&st.Rules, now)},
		{"data path", dataPathLine(st)},
		{"cluster", clusterLine(st.Cluster)},
	}
	if st.Sums == nil {
		return append(lines, [2]string{"calls", "not known: the daemon does not report them"})
	}
	lines = append(lines, [2]string{"calls", callsLine(&st.Sums.Calls)}, [2]string{"traffic", trafficLine(st.Sums)}, [2]string{"limits", limitsLine(st.Sums)})
	last := "none"
	if e := st.LastError; e != nil {
		last = fmt.Sprintf("%s ago: %s", short(now.Sub(e.Time.Time)), e.Text)
	}
	return append(lines, [2]string{"last error", last})
}

func running(st *status.Status, now time.Time) string {
	if st.Sums == nil || st.Sums.Started.IsZero() {
		return ""
	}
	return ", running for " + short(now.Sub(st.Sums.Started.Time))
}

func rulesLine(r *status.Rules, now time.Time) string {
	by := map[string]string{nft.Name: "by the daemon, in nftables", choice.IPTables: "by the daemon, with iptables", choice.None: "by the administrator (--rules none)"}[r.By]
	switch {
	case !r.Loaded:
		return "missing; normally loaded " + by
	case r.Since.IsZero():
		return "loaded " + by
	}
	return fmt.Sprintf("loaded %s, for %s", by, short(now.Sub(r.Since.Time)))
}

func dataPathLine(st *status.Status) string {
	f := &st.FastPath
	text := map[string]string{"kernel": "kernel", "queue": "queue: the daemon translates GRE"}[st.DataPath]
	switch {
	case f.Mode == "off":
		return text + "; no fast path"
	case f.XDP+f.TC == 0:
		return text + "; the fast path is not loaded"
	}
	text += fmt.Sprintf("; fast path on %s by XDP and %d by tc", number(f.XDP, "interface"), f.TC)
	if f.Missing > 0 {
		text += fmt.Sprintf(", missing on %d", f.Missing)
	}
	return text
}

func clusterLine(c *status.Cluster) string {
	if c == nil {
		return "none: a single gateway"
	}
	return fmt.Sprintf("%s: %s, %s", c.Name, number(c.Gateways, "gateway"), c.State)
}

// callsLine counts the calls by state. Those that do not carry are no others than established
// ones.
func callsLine(c *status.Count) string {
	var parts []string
	for _, p := range []struct {
		n    int
		word string
	}{
		{c.OneWay, "one-way"}, {c.Silent, "silent"}, {c.Established - c.OneWay - c.Silent, "established"},
		{c.Answered, "answered"}, {c.Requested, "requested"}, {c.Clearing, "clearing"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.word))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	text := fmt.Sprintf("%d: %s", c.All, strings.Join(parts, ", "))
	if c.Established > 0 && c.Counted == 0 {
		text += "; packets are not counted (sysctl -w net.netfilter.nf_conntrack_acct=1)"
	}
	return text
}

func trafficLine(s *status.Sums) string {
	switch {
	case s.Rate != nil:
		return rate(s.Rate) + ", both ways"
	case s.Calls.Counted == 0:
		return "none that is counted"
	}
	return "not known yet"
}

func limitsLine(s *status.Sums) string {
	percent := func(r float64) string {
		if r > 0 && r < 0.01 {
			return "<1 %"
		}
		return fmt.Sprintf("%.0f %%", 100*r)
	}
	text := fmt.Sprintf("in use: calls %s, control connections %s, Call IDs %s, conntrack table %s", percent(s.CallsUsed), percent(s.LinksUsed), percent(s.CallIDSpace), percent(s.TableUsed))
	if s.Unedited > 0 {
		text += fmt.Sprintf("; %d requests beyond a limit passed unedited", s.Unedited)
	}
	return text
}
