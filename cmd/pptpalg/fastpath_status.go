package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/datapath/fast"
	"pptpalg/cmd/pptpalg/internal/schema"
)

func fastpathStatusCommand(e env) *cobra.Command {
	s := newSettings(stateDir(e))
	var o output
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the interfaces of the fast path, and what it carries",
		Long: `Show for each interface whether XDP, tc or nothing should take its packets, why, and
whether the programs are attached; then the flows and the packets.

What should be attached depends on the settings of the running daemon, or, if none runs,
on those that a daemon would start with now. --fastpath and --fastpath-interfaces override
them.

It needs root, or CAP_NET_ADMIN and the daemon's group.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.read(cmd); err != nil {
				return err
			}
			by, silent, err := s.wantedFast(cmd.Context())
			if err != nil {
				return err
			}
			st, err := s.fast.status()
			if err != nil {
				return err
			}
			st.WantedBy, st.silent = by, silent
			if o.structured() {
				return o.print(cmd.OutOrStdout(), st)
			}
			return st.text(cmd.OutOrStdout())
		},
	}
	s.addTo(cmd, s.flags)
	o.addTo(cmd, formText, formJSON, formYAML)
	return cmd
}

// wantedBy says whose the wish is that "fastpath status" compares with.
type wantedBy string

const (
	byFlags    wantedBy = "flags"
	byDaemon   wantedBy = "daemon"
	bySettings wantedBy = "settings"
)

// wantedFast sets the options of the fast path to what the running daemon wants, unless the
// command line says what is wanted. silent is why no daemon has told.
func (s *settings) wantedFast(ctx context.Context) (by wantedBy, silent, err error) {
	if s.flags.Changed("fastpath") || s.flags.Changed("fastpath-interfaces") {
		return byFlags, nil, nil
	}
	told, silent := admin.Client{StateDir: s.stateDir}.FastPath(ctx)
	if silent != nil {
		return bySettings, silent, nil
	}
	if !s.flags.Changed("fastpath-dir") {
		s.fast.dir = told.Dir
	}
	s.fast.interfaces = told.Interfaces
	return byDaemon, nil, s.fast.mode.UnmarshalText([]byte(told.Mode))
}

// fastStatus is what "fastpath status" prints.
type fastStatus struct {
	SchemaVersion schema.Version    `json:"schema_version"`
	Mode          ports.Mode        `json:"mode"`
	WantedBy      wantedBy          `json:"wanted_by"`
	Loaded        bool              `json:"loaded"`
	Interfaces    []fastPort        `json:"interfaces"`
	Flows         int               `json:"flows"`
	InForce       int               `json:"flows_in_force"`
	Without       int               `json:"flows_without_place"`
	Packets       map[string]uint64 `json:"packets"`   // forwarded, by path
	Passed        map[string]uint64 `json:"passed"`    // left to the kernel, by reason
	Decisions     uint64            `json:"decisions"` // of the kernel, taken over
	Refused       map[string]uint64 `json:"refused"`   // decisions not taken over, by reason

	silent error // why no daemon has told what it wants
}

// fastPort is an interface.
type fastPort struct {
	Name     string `json:"name"`
	Wanted   string `json:"wanted"`   // how packets are to be taken: xdp, tc, xdp+tc, none
	Attached string `json:"attached"` // how they are
	Why      string `json:"why"`
}

// status looks at the fast path of this network namespace.
func (o *fastOptions) status() (fastStatus, error) {
	st := fastStatus{Mode: o.mode, Interfaces: []fastPort{}}
	chosen, err := ports.Choose(o.mode, o.interfaces)
	if err != nil {
		return st, err
	}
	attached, figures, err := o.loaded()
	if err != nil {
		return st, err
	}
	st.Loaded = figures.Loaded
	st.Flows, st.InForce, st.Without = figures.Flows, figures.InForce, figures.Without
	st.Packets, st.Passed, st.Decisions, st.Refused = figures.Packets, figures.Passed, figures.Learnt, figures.Refused
	st.Interfaces = append(st.Interfaces, fastPorts(chosen, attached)...)
	return st, nil
}

// loaded opens the fast path, if it is loaded.
func (o *fastOptions) loaded() ([]fastpath.Attached, fastpath.Stats, error) {
	t, err := fastpath.Open(o.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fastpath.Nothing(), nil
	}
	if err != nil {
		return nil, fastpath.Stats{}, err
	}
	defer t.Close()
	attached, err := t.Attached()
	return attached, t.Stats(), err
}

// fastPorts tells of each interface that is chosen or attached.
func fastPorts(chosen []ports.Port, attached []fastpath.Attached) (all []fastPort) {
	for _, p := range chosen {
		is := fast.Actual(p, attached)
		all = append(all, fastPort{Name: p.Name, Wanted: fast.How(p), Attached: fast.How(is), Why: is.Why})
	}
	for _, a := range attached {
		if !slices.ContainsFunc(chosen, func(p ports.Port) bool { return p.Index == a.Index }) {
			all = append(all, fastPort{Name: a.Name, Wanted: "none", Attached: fast.How(a.Port), Why: "it should not be on the fast path"})
		}
	}
	return all
}

func (st *fastStatus) text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "fast path\t%s, %s\n", st.Mode, st.loaded())
	fmt.Fprintf(t, "set by\t%s\n", st.wantedBy())
	if len(st.Interfaces) > 0 {
		fmt.Fprintf(t, "\nINTERFACE\tATTACHED\tEXPECTED\tWHY\n")
	}
	for _, p := range st.Interfaces {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.Name, p.Attached, p.Wanted, p.Why)
	}
	if st.Loaded {
		fmt.Fprintf(t, "\nflows\t%d, %d in force, %d beyond --fastpath-flows\n", st.Flows, st.InForce, st.Without)
		fmt.Fprintf(t, "forwarded\t%s\n", counts(st.Packets))
		fmt.Fprintf(t, "left to the kernel\t%s\n", counts(st.Passed))
		fmt.Fprintf(t, "decisions\t%d learned; not learned: %s\n", st.Decisions, counts(st.Refused))
	}
	return t.Flush()
}

func (st *fastStatus) wantedBy() string {
	switch {
	case st.WantedBy == byDaemon:
		return "the running daemon"
	case errors.Is(st.silent, admin.ErrNotRunning):
		return "the configuration; " + admin.ErrNotRunning.Error()
	case st.silent != nil:
		return fmt.Sprintf("the configuration; the daemon's own settings are not known: %v", st.silent)
	}
	return "the flags given"
}

func (st *fastStatus) loaded() string {
	switch {
	case !st.Loaded:
		return "not loaded"
	case st.Mode == ports.Off:
		return "but still loaded"
	}
	return "loaded"
}

// counts writes "tc 5, xdp 0".
func counts(all map[string]uint64) (text string) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s %d", name, all[name])
	}
	return text
}
