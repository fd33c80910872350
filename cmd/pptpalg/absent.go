package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/notify"
)

// How long status and explain wait for the daemon. It answers within a second, and with tens of
// thousands of calls within three; about all clients it takes longer.
const (
	answerTime  = 8 * time.Second
	answersTime = time.Minute
)

// absence is why no daemon answers, as a cause: the same words for status and explain.
type absence struct {
	explain.Cause
	stopped bool   // none runs
	told    string // the check whose problem is in the words; "" for none
}

// answering asks the daemon something, and returns why it does not answer, nil if it does. What
// else goes wrong is an error.
func answering(ctx context.Context, within time.Duration, ask func(context.Context) error) (*absence, error) {
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := ask(limited)
	var still admin.Suspended
	var nowhere admin.NoSocket
	switch {
	case errors.As(err, &still):
		return &absence{Cause: explain.Cause{
			Code:   "daemon_suspended",
			Text:   fmt.Sprintf("the daemon (process %d) is suspended by a signal (SIGSTOP): packets of control connections wait for it, and new calls fail", int(still)),
			Advice: fmt.Sprintf("kill -CONT %d", int(still)),
		}}, nil
	case errors.As(err, &nowhere):
		return &absence{Cause: explain.Cause{Code: "daemon_stopped", Text: nowhere.Error(), Advice: "name the daemon's directory with --state-dir"}, stopped: true}, nil
	case errors.Is(err, admin.ErrNotRunning):
		return &absence{Cause: explain.Cause{Code: "daemon_stopped", Text: "no daemon is running: new calls are not edited", Advice: notify.Command("start")}, stopped: true}, nil
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return &absence{Cause: explain.Cause{
			Code: "daemon_silent", Text: fmt.Sprintf("the daemon runs, but has not answered for %v: it hangs, or gets no CPU time", within), Advice: notify.Command("restart"),
		}}, nil
	}
	return nil, err
}

// starting are the checks whose problems keep a daemon from starting.
var starting = []string{"configuration", "rights", "iptables", "rules", "nfqueue", "queue-owner", "conntrack", "listener", "event-log"}

// because adds to a daemon that does not run what keeps it from starting, and to the command that
// starts it what comes before.
func (a *absence) because(found check.Findings) {
	if a.Advice != notify.Command("start") {
		return // starting it would not help
	}
	for _, name := range starting {
		for _, f := range found {
			if f.Check == name && f.Result == check.Problem {
				a.told = name
				a.Text += "; " + f.Found
				a.Advice = f.Remedy + " && " + a.Advice
				return
			}
		}
	}
}

// verdict is the exit code.
func (a *absence) verdict(command string) error {
	if a.stopped {
		return codeError{code: stoppedCode, text: command + ": no daemon is running"}
	}
	return codeError{code: 1, text: command + ": the daemon does not answer"}
}
