package check

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/datapath/fast"
)

// fastPath is what the fast path is, and what it should be. The kernel forwards what it does
// not, so nothing about it is a problem.
type fastPath struct {
	wanted   bool
	queued   bool // the daemon will translate GRE
	running  bool
	chosen   []ports.Port        // also those that it does not use, with the reason
	attached []fastpath.Attached // of the one that is loaded
	load     string              // the command that loads it
	unload   string
	off      string // the command that has the daemon run without it
}

func (r *reader) fastPath() (fastPath, error) {
	c := r.cfg.Fast
	p := fastPath{wanted: c.Wanted(), running: r.running(), load: r.cfg.LoadFast, unload: "pptpalg fastpath unload --fastpath-dir=" + shell(c.Dir)}
	p.off = r.cfg.Set("fastpath", "off")
	attached, err := attachedAt(c.Dir)
	if err != nil || !p.wanted {
		p.attached = attached
		return p, err
	}
	p.attached, p.queued = attached, r.queued()
	p.chosen, err = ports.Choose(c.Mode, c.Only)
	return p, err
}

// attachedAt returns the ports of the fast path that is loaded, none if it is not.
func attachedAt(dir string) ([]fastpath.Attached, error) {
	t, err := fastpath.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return t.Attached()
}

func judgeFastPath(p fastPath) Finding {
	missing := fast.Missing(p.chosen, p.attached)
	switch {
	case !p.wanted && len(p.attached) > 0:
		return warning(p.unload, "it is off, but programs are attached: %s", fast.Summary(p.attached))
	case !p.wanted:
		return ok("off")
	case p.queued:
		return warning(p.off, "it is enabled, but works only with data path kernel")
	case !slices.ContainsFunc(p.chosen, func(p ports.Port) bool { return p.Used() }):
		return warning(p.off, "it is enabled, but no interface can use it: %s", reasons(p.chosen, false))
	case !p.running && len(p.attached) == 0:
		return ok("it will be loaded when the daemon starts: %s", described(p.chosen))
	case len(p.attached) == 0:
		return warning(p.load, "it is enabled, but attached to no interface; expected: %s", described(p.chosen))
	case len(missing) > 0:
		return warning(p.load, "it is not attached to %s, where it should be", strings.Join(missing, ", "))
	}
	if raised := p.raised(); len(raised) > 0 {
		return warning(p.load, "%s uses tc, where XDP works", strings.Join(raised, ", "))
	}
	return ok("%s", described(p.actual()))
}

// raised names the interfaces that could have XDP instead of tc.
func (p *fastPath) raised() (names []string) {
	for i := range p.attached {
		a := &p.attached[i]
		n := slices.IndexFunc(p.chosen, func(c ports.Port) bool { return c.Index == a.Index })
		if n >= 0 && fast.Raised(&p.chosen[n], a) {
			names = append(names, p.chosen[n].Name)
		}
	}
	return names
}

// actual returns the interfaces as they are attached.
func (p *fastPath) actual() (all []ports.Port) {
	for _, c := range p.chosen {
		all = append(all, fast.Actual(c, p.attached))
	}
	return all
}

// described tells the interfaces on the fast path, and those that are not, with the reasons.
func described(all []ports.Port) string {
	text := reasons(all, true)
	if others := reasons(all, false); others != "" {
		text += "; left to the kernel: " + others
	}
	return text
}

// reasons tells of the interfaces that are used, or of those that are not. That loopback is
// not is no news.
func reasons(all []ports.Port, used bool) string {
	var text []string
	for i := range all {
		switch p := &all[i]; {
		case p.Used() != used, p.Name == "lo":
		case used:
			text = append(text, fmt.Sprintf("%s by %s (%s)", p.Name, fast.How(*p), p.Why))
		default:
			text = append(text, fmt.Sprintf("%s (%s)", p.Name, p.Why))
		}
	}
	return strings.Join(text, ", ")
}
