package fast

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"pptpalg/cmd/internal/fastpath"
	"pptpalg/cmd/internal/fastpath/ports"
	"pptpalg/cmd/pptpalg/internal/datapath"
)

// again is how long to wait before what did not help is tried again. Others are asked again
// after askedAgain, and then after twice as long each time: systemd may miss a request while
// it carries out another one, or may not be able to do it.
const (
	again      = 5 * time.Minute
	askedAgain = 15 * time.Second
)

// grace is how long those who were asked may take before the log says what is missing.
const grace = 10 * time.Second

// tender is what the looks at the fast path remember.
type tender struct {
	why      string    // the last reason that was logged
	absent   error     // why the fast path cannot be opened; nil: it is open
	since    time.Time // when something began to be missing; zero: nothing is
	lacking  string    // what was missing at the last look
	told     string    // what was missing when the log said so last
	tried    string    // what was to be loaded when that was tried or asked for last
	triedAt  time.Time
	pause    time.Duration // before that is tried or asked for again
	unloaded bool          // somebody has unloaded it while it was in use: it stays so until somebody loads it
}

// look finds out what the fast path is and what it should be, and does what it can about the
// difference.
func (t *Tended) look() {
	chosen, err := ports.Choose(t.cfg.Mode, t.cfg.Only)
	if err != nil {
		t.complain("cannot choose interfaces for the fast path: the kernel forwards all packets", err)
		return
	}
	attached := t.attached(chosen)
	if lacks := difference(chosen, attached); t.open.Load() == nil || lacks != "" {
		t.ensure(chosen, lacks, Missing(chosen, attached))
		attached = t.attached(chosen)
	} else {
		t.tender.tried = "" // what happens again is done again at once
	}
	t.take(chosen, attached)
}

// settle takes ports out of use that are not to be used as they are. The next look tells.
func (t *Tended) settle() {
	table := t.open.Load()
	if table == nil {
		return
	}
	if chosen, err := ports.Choose(t.cfg.Mode, t.cfg.Only); err == nil {
		_, _ = table.Settle(chosen)
	}
}

// attached opens the fast path if that is due, and returns the ports that it has, those out of
// use that are not to be used as they are.
func (t *Tended) attached(chosen []ports.Port) []fastpath.Attached {
	table := t.table()
	if table == nil {
		return nil
	}
	all, err := table.Settle(chosen)
	switch gone := errors.Is(err, os.ErrNotExist); {
	case gone && !t.tender.unloaded:
		t.tender.unloaded = true
		t.log.Warn("the fast path was unloaded: the kernel forwards all packets until \"pptpalg fastpath load\" is run as root")
	case !gone && err != nil:
		t.complain("cannot read the interfaces of the fast path", err)
	case !gone:
		t.tender.unloaded = false
	}
	return all
}

// table opens what is loaded, unless it is open.
func (t *Tended) table() *fastpath.Table {
	if table := t.open.Load(); table != nil {
		return table
	}
	table, err := fastpath.Open(t.cfg.Dir)
	t.tender.absent = err
	if err != nil {
		return nil
	}
	t.use(table)
	t.open.Store(table)
	if t.cfg.Opened != nil {
		t.cfg.Opened()
	}
	return table
}

// ensure loads the fast path, or asks for it.
func (t *Tended) ensure(chosen []ports.Port, lacks string, missing []string) {
	if t.tender.unloaded || !t.due(describe(chosen)+lacks) {
		return
	}
	if !t.root {
		t.request(missing)
		return
	}
	done, err := t.cfg.load(chosen)
	if err != nil {
		t.complain("cannot load the fast path: the kernel forwards all packets", err)
		return
	}
	t.log.Info("loaded the fast path", "interfaces", Summary(done.Ports), "adopted", done.Adopted)
	if done.Why != "" {
		t.log.Warn("the kernel forwards the flows of an earlier fast path until the fast path has learned them again", "why", done.Why)
	}
}

// due reports whether to load what is planned, or to ask for it: a new plan at once, and one
// that did not help after a pause.
func (t *Tended) due(plan string) bool {
	d, now := &t.tender, t.clock()
	switch {
	case plan != d.tried && t.root:
		d.pause = again
	case plan != d.tried:
		d.pause = askedAgain
	case now.Sub(d.triedAt) < d.pause:
		return false
	default:
		d.pause = min(2*d.pause, again)
	}
	d.tried, d.triedAt = plan, now
	return true
}

// request asks whoever watches the file to load the fast path.
func (t *Tended) request(missing []string) {
	if t.cfg.Request == "" {
		return
	}
	if err := os.WriteFile(t.cfg.Request, []byte(strings.Join(missing, "\n")+"\n"), 0o640); err != nil {
		t.log.Debug("cannot request that the fast path be loaded", "err", err)
	}
}

// take has metrics and programs know the ports as they are now.
func (t *Tended) take(chosen []ports.Port, attached []fastpath.Attached) {
	now := datapath.Ports{}
	for i := range attached {
		switch a := &attached[i]; {
		case a.XDP:
			now.XDP++
		case a.TC:
			now.TC++
		}
	}
	missing := Missing(chosen, attached)
	now.Missing = len(missing)
	t.ports.Store(&now)
	t.tell(now, missing)
	if table := t.open.Load(); table != nil {
		if err := table.Refresh(chosen); err != nil {
			t.complain("cannot update the interfaces of the fast path", err)
		}
	}
}

// tell logs what has changed since the last look.
func (t *Tended) tell(now datapath.Ports, missing []string) {
	d, lacks := &t.tender, strings.Join(missing, ", ")
	was, absent := d.lacking, d.absent != nil
	d.lacking = lacks
	overdue := t.overdue(absent || lacks != "")
	switch {
	case absent && overdue && !(t.root && errors.Is(d.absent, os.ErrNotExist)): // or it has said why it cannot load it
		t.complain("no fast path: the kernel forwards all packets", notThere(d.absent))
	case absent, d.unloaded:
	case lacks == "" && was != "":
		t.log.Info("the fast path is attached to all its interfaces", "xdp", now.XDP, "tc", now.TC)
		d.told = ""
	case lacks == d.told || !overdue:
	case t.root:
		t.log.Warn("the fast path cannot be attached to interfaces: the kernel forwards their packets", "interfaces", lacks)
		d.told = lacks
	default:
		t.log.Warn("the fast path is not attached to interfaces: the kernel forwards their packets until \"pptpalg fastpath load\" is run as root", "interfaces", lacks)
		d.told = lacks
	}
}

// overdue reports whether something has been missing for so long that the log is to say so.
// Who may load has done what can be done; others have asked, and wait.
func (t *Tended) overdue(missing bool) bool {
	d, now := &t.tender, t.clock()
	switch {
	case !missing:
		d.since = time.Time{}
	case d.since.IsZero():
		d.since = now
	}
	return missing && (t.root || now.Sub(d.since) >= grace)
}

// complain logs why something is not to be had, once for each reason.
func (t *Tended) complain(message string, err error) {
	if why := message + err.Error(); why != t.tender.why {
		t.tender.why = why
		t.log.Warn(message, "err", err)
	}
}

// difference says in what the ports that are attached differ from those that are chosen, ""
// if in nothing that loading would change. A port with XDP that was refused is attached by tc,
// which is no difference, nor is another's program in the place for XDP, which only root can
// tell from ours. One that is down for now stays attached.
func difference(chosen []ports.Port, attached []fastpath.Attached) string {
	all := Missing(chosen, attached)
	for i := range attached {
		a := &attached[i]
		n := slices.IndexFunc(chosen, func(p ports.Port) bool { return p.Index == a.Index })
		switch {
		case n < 0 || !chosen[n].Used() && !chosen[n].Down:
			all = append(all, fmt.Sprintf("without interface %d", a.Index))
		case a.Idle || a.XDP && !chosen[n].XDP && !chosen[n].Down:
			all = append(all, a.Name+" without XDP")
		case a.Used() && Raised(&chosen[n], a):
			all = append(all, a.Name+" with XDP")
		}
	}
	return strings.Join(all, ", ")
}

// Raised reports whether XDP works on an interface that is attached without it.
func Raised(chosen *ports.Port, a *fastpath.Attached) bool {
	return chosen.XDP && !a.XDP && !a.Refused && !a.Taken
}

// Missing returns the interfaces that are not attached as they are to be, so that packets go
// through the kernel. One that only could have XDP instead of tc is not among them, and one
// whose driver refuses XDP when there is to be nothing else is not either.
func Missing(chosen []ports.Port, attached []fastpath.Attached) (names []string) {
	for i := range chosen {
		p := &chosen[i]
		inOrder := func(a fastpath.Attached) bool { return a.Index == p.Index && !a.Idle && (a.Used() || a.Refused) }
		if p.Used() && !slices.ContainsFunc(attached, inOrder) {
			names = append(names, p.Name)
		}
	}
	return names
}

// Actual returns an interface as it is attached, with the reason.
func Actual(p ports.Port, attached []fastpath.Attached) ports.Port {
	a := fastpath.Attached{}
	if i := slices.IndexFunc(attached, func(a fastpath.Attached) bool { return a.Index == p.Index }); i >= 0 {
		a = attached[i]
	}
	switch {
	case p.XDP && a.Refused:
		p.Why = "no XDP: refused when the fast path was loaded"
	case a.Idle:
		p.Why += "; the program for XDP is out of use"
	}
	p.XDP, p.TC = a.XDP, a.TC
	return p
}

// describe is a text that differs where the ports do.
func describe(chosen []ports.Port) string {
	var all []fastpath.Attached
	for _, p := range chosen {
		all = append(all, fastpath.Attached{Port: p})
	}
	return Summary(all)
}

// Summary tells the ports that are attached, and how: "eth0 xdp, ppp0 tc".
func Summary(all []fastpath.Attached) string {
	var text []string
	for i := range all {
		if a := &all[i]; a.Used() {
			text = append(text, a.Name+" "+How(a.Port))
		}
	}
	if len(text) == 0 {
		return "none"
	}
	return strings.Join(text, ", ")
}

// How is "xdp", "xdp+tc", "tc" or "none".
func How(p ports.Port) string {
	switch {
	case p.XDP && p.TC:
		return "xdp+tc"
	case p.XDP:
		return "xdp"
	case p.TC:
		return "tc"
	}
	return "none"
}
