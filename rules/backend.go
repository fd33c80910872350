package rules

import "context"

// Backend loads rules and removes them.
type Backend interface {
	// Name is what --rules calls it.
	Name() string
	// Load loads the rules of a Config, replacing any rules of ours.
	Load(context.Context, Config) (Outcome, error)
	// Unload removes them.
	Unload(context.Context) error
	// Present reports whether all rules of a Config are loaded.
	Present(context.Context, Config) (bool, error)
	// Watch calls changed when somebody may have changed firewall rules, until ctx is done.
	// It may call it without need. It also keeps up to date what changes of the network make of
	// the rules.
	Watch(ctx context.Context, changed func()) error
}

// Outcome says what Load has loaded.
type Outcome struct {
	// Backend is the name of what has loaded the rules.
	Backend string
	// Config is what was requested, except where the kernel or the program lacks something:
	// AllSegments without xt_bpf; no TooBig without xt_u32 or a way to limit; no Bypass without
	// xt_connlabel or xt_connmark, or nft_ct; and no ResetMark without a way to reject, or without iptables' table filter.
	Config Config
	// Refused is the error for the requested rules, if Config differs from them. Nil if
	// Config is as requested.
	Refused error
}
