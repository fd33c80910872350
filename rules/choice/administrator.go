package choice

import (
	"context"
	"time"

	"pptpalg/rules"
	"pptpalg/rules/internal/follow"
	"pptpalg/rules/iptables"
	"pptpalg/rules/nft"
)

// administrator stands for rules that somebody else loads, in whatever form.
type administrator struct{}

func (*administrator) Name() string { return None }

// Load loads nothing: the administrator's rules do what cfg says.
func (*administrator) Load(_ context.Context, cfg rules.Config) (rules.Outcome, error) {
	return rules.Outcome{Backend: None, Config: cfg}, nil
}

func (*administrator) Unload(context.Context) error { return nil }

// Present reports whether any rule sends packets to cfg's queue. An error says that this
// cannot be known.
func (*administrator) Present(_ context.Context, cfg rules.Config) (bool, error) {
	there, err := nft.Queues(cfg.Queue)
	if there || err != nil {
		return there, err
	}
	return iptables.LegacyQueues(cfg.Queue)
}

// lookInterval is how often rules of others are looked for, although nobody tells of a change:
// nobody does of those by iptables-legacy.
const lookInterval = 4 * time.Second

// Watch hears of changes by nftables, and calls changed every so often.
func (*administrator) Watch(ctx context.Context, changed func()) error {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	deaf := make(chan error, 1)
	go func() { deaf <- follow.NFTables(ctx, 0, changed) }()
	for {
		select {
		case <-ticker.C:
			changed()
		case <-ctx.Done():
			<-deaf
			return nil
		}
	}
}
