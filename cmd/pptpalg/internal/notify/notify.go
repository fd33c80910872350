package notify

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Config is the daemon of which the service manager is told.
type Config struct {
	Ready   <-chan struct{}           // closed once the daemon edits
	Healthy func(now time.Time) error // nil while it does its work; called from Run's goroutine
	Log     *slog.Logger
}

// Run tells the service manager of the daemon until ctx is done: READY=1 once it
// edits, then WATCHDOG=1 at half of WATCHDOG_USEC as long as it is healthy, and
// STOPPING=1 in the end. A daemon that is stuck is thus ended by the manager,
// which starts another one. Without a manager (NOTIFY_SOCKET) Run only waits.
//
// A message that cannot be sent is logged and no error: what the daemon does for
// its network is worth more. The error is a WATCHDOG_USEC that is not a time.
func Run(ctx context.Context, c Config) error {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read watchdog time of the service manager: %w", err)
	}
	manager{Config: c, watchdog: watchdog, send: send}.run(ctx)
	return nil
}

func send(state string) error {
	_, err := daemon.SdNotify(false, state)
	return err
}

// manager is the service manager, as the daemon sees it.
type manager struct {
	Config
	watchdog time.Duration // how long it bears silence; 0: for ever
	send     func(state string) error
}

func (m manager) run(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-m.Ready:
		m.tell(daemon.SdNotifyReady)
		m.watch(ctx)
	}
	m.tell(daemon.SdNotifyStopping)
}

// watch sends a sign of life now and then until ctx is done.
func (m manager) watch(ctx context.Context) {
	if m.watchdog == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(m.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.beat(time.Now())
		}
	}
}

// beat sends a sign of life, or says why there is none: the manager's own line in
// the log will not.
func (m manager) beat(now time.Time) {
	if err := m.Healthy(now); err != nil {
		m.Log.Error("the daemon is stuck and does not notify the service manager, which will kill it", "err", err)
		return
	}
	m.tell(daemon.SdNotifyWatchdog)
}

func (m manager) tell(state string) {
	if err := m.send(state); err != nil {
		m.Log.Warn("tell service manager", "state", state, "err", err)
	}
}
