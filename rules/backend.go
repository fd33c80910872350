package rules

import "context"

// Backend loads rules and removes them.
type Backend interface {
	// Load loads the rules of a Config, replacing any rules of ours.
	Load(context.Context, Config) (Outcome, error)
	// Unload removes them.
	Unload(context.Context) error
	// Loaded reports whether they are loaded.
	Loaded(context.Context) (bool, error)
}

// Outcome says what Load has loaded.
type Outcome struct {
	// Config is what was requested, except where iptables or the kernel lacks a match:
	// AllSegments without xt_bpf; no Bypass without xt_connlabel or xt_connmark; and no
	// ResetMark without ipt_REJECT or table filter.
	Config Config
	// Refused is iptables' error for the requested rules, if Config differs from them. Nil
	// if Config is as requested.
	Refused error
}
