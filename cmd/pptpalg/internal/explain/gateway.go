package explain

import (
	"cmp"
	"slices"
)

// stage is how far packets of the client get, according to the daemon and the kernel.
type stage uint8

const (
	absent     stage = iota // no connection is there now
	unknown                 // no daemon answers, which would know
	unanswered              // TCP's handshake does not end
	unseen                  // a connection that the daemon never saw
	misled                  // who answers does not speak PPTP
	carrying                // a call is up
	reached                 // the control connection works
)

// blocking are what "pptpalg check" can find wrong that keeps packets from coming any
// further, by stage: names of checks, the likeliest first. What else it finds explains
// nothing there.
var blocking = map[stage][]string{
	absent:     {"ip-forward", "nat", "firewall-control", "conntrack-table", "proxy", "tracking", "daemon", "kernel-helper", "flow-offload"},
	unanswered: {"conntrack-table", "nat", "firewall-control", "proxy", "daemon", "kernel-helper"},
	unseen:     {"conntrack-table", "tracking", "daemon", "proxy", "flow-offload"},
	misled:     {"proxy"},
	carrying:   {"ip-forward", "firewall-gre", "tracking"},
}

// later are what explains nothing of what is seen, by stage, and keeps the next call from working.
var later = map[stage][]string{
	carrying: {"daemon", "nat", "kernel-helper"}, // by what the kernel has already: the next call will not be
	unknown:  {"configuration", "queue-owner", "ip-forward", "nat", "firewall-control", "firewall-gre", "conntrack-table", "proxy", "tracking", "kernel-helper", "helper-sysctl", "flow-offload"},
}

// codes are those of causes that the daemon may find too. Others are the check's name.
var codes = map[string]string{"daemon": "rules_missing", "kernel-helper": "kernel_helper"}

// Problem is a problem of the gateway that "pptpalg check" has found.
type Problem struct{ Check, Found, Remedy string }

// Weigh puts problems of the gateway before the causes, if they explain why packets do not
// arrive or do not get through: these problems exist now, and what the daemon saw may be
// older. The daemon itself may not check the gateway: see deploy/README.md.
func (r *Report) Weigh(problems []Problem) {
	at := r.stage()
	first := causesOf(problems, blocking[at])
	all := slices.Concat(first, r.Causes, causesOf(problems, later[at]))
	r.Causes = nil
	for _, c := range all {
		if r.has(c.Code) || len(first) > 0 && c.Code == "working" {
			continue
		}
		r.Causes = append(r.Causes, exact(c, problems))
	}
}

// exact returns a cause that the daemon has found in the words of the check that has found it too,
// which names the rule and the command.
func exact(c Cause, problems []Problem) Cause {
	if c.Code == codes["kernel-helper"] && len(causesOf(problems, []string{"kernel-helper", "helper-sysctl"})) == 0 {
		c.Advice = "nothing attaches it to new connections any more: dial again"
	}
	for check, code := range codes {
		if found := causesOf(problems, []string{check}); code == c.Code && len(found) > 0 {
			return found[0]
		}
	}
	return c
}

// causesOf makes causes of the problems that some checks have found.
func causesOf(problems []Problem, checks []string) (causes []Cause) {
	for _, check := range checks {
		i := slices.IndexFunc(problems, func(p Problem) bool { return p.Check == check })
		if i >= 0 {
			causes = append(causes, Cause{cmp.Or(codes[check], check), problems[i].Found, problems[i].Remedy})
		}
	}
	return causes
}

func (r *Report) has(code string) bool {
	return slices.ContainsFunc(r.Causes, func(c Cause) bool { return c.Code == code })
}

func (r *Report) stage() stage {
	up := func(c CallLine) bool { return c.State == "established" }
	switch {
	case r.DataPath == Unknown:
		return unknown
	case slices.ContainsFunc(r.Calls, up):
		return carrying
	case r.has("server_no_answer"), r.has("answer_lost"):
		return unanswered
	case r.has("not_queued"):
		return unseen
	case r.has("not_pptp"), r.has("closed_early"):
		return misled
	case r.Control == nil, r.Control.Over:
		return absent
	}
	return reached
}
