package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/pflag"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/explain"
)

// weigh checks the gateway, as "pptpalg check" does, and adds to the reports what the daemon
// could not see. It does nothing if the daemon is in another network namespace than the
// caller. The unit's daemon has no rights to check by itself.
func weigh(ctx context.Context, s *settings, reports ...*explain.Report) {
	if len(reports) == 0 || !sameNetwork(ctx, s.stateDir) {
		return
	}
	var problems []explain.Problem
	rules := ""
	for _, f := range s.findings(ctx, true) {
		switch {
		case f.Result == check.Problem:
			problems = append(problems, explain.Problem{Check: f.Check, Found: f.Found, Remedy: f.Remedy})
			if f.Check == "daemon" { // it runs, as it has answered: its rules are missing
				rules = explain.RulesMissing.String()
			}
		case f.Result == check.OK && f.Check == "daemon":
			rules = explain.RulesLoaded.String()
		}
	}
	for _, r := range reports {
		if rules != "" {
			r.Rules = rules
		}
		r.Weigh(problems)
	}
}

// explainAbsent is the report about a client where no daemon answers, which would know of it. Root
// learns what else is wrong with the gateway.
func explainAbsent(ctx context.Context, s *settings, client netip.Addr, away *absence) explain.Report {
	found := s.findings(ctx, away.stopped && os.Geteuid() == 0)
	away.because(found)
	r := explain.Absent(client, time.Now(), away.Cause)
	var problems []explain.Problem
	for _, f := range found {
		if f.Result == check.Problem && f.Check != away.told {
			problems = append(problems, explain.Problem{Check: f.Check, Found: f.Found, Remedy: f.Remedy})
		}
	}
	r.Weigh(problems)
	return r
}

// sameNetwork reports whether the daemon is known to be in the network namespace of the
// calling thread. Only root can find out.
func sameNetwork(ctx context.Context, stateDir string) bool {
	pid, err := admin.Client{StateDir: stateDir}.PID(ctx)
	if err != nil {
		return false
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return false
	}
	ours, err := os.Stat("/proc/thread-self/ns/net")
	return err == nil && os.SameFile(theirs, ours)
}

// some returns flags of run for other commands.
func (s *settings) some(names ...string) *pflag.FlagSet {
	flags := pflag.NewFlagSet("some", pflag.ContinueOnError)
	for _, name := range names {
		flags.AddFlag(s.flags.Lookup(name))
	}
	return flags
}
