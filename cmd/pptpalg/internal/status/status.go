package status

import (
	"fmt"
	"slices"
	"strings"

	"pptpalg/alg/calls"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/meter"
	"pptpalg/cmd/pptpalg/internal/schema"
)

// Status is the answer of /api/status.
type Status struct {
	SchemaVersion schema.Version `json:"schema_version"`
	Version       string         `json:"version"`
	DataPath      string         `json:"data_path"` // kernel or queue
	Now           schema.Time    `json:"now"`       // of the daemon's clock
	Ready         bool           `json:"ready"`     // the daemon edits
	Healthy       bool           `json:"healthy"`   // packets get their verdicts, audits end
	Problems      []string       `json:"problems"`  // what is wrong now, in words, the worst first
	Sums          *Sums          `json:"sums"`      // null while the daemon does not tell its calls

	Rules     Rules    `json:"rules"`
	FastPath  FastPath `json:"fast_path"`
	Cluster   *Cluster `json:"cluster"`    // null for a gateway alone
	LastError *LogLine `json:"last_error"` // that the daemon has logged; null for none
}

// Rules are the firewall rules that send control connections to the daemon.
type Rules struct {
	By     string      `json:"by"`     // who loads them: nft, iptables, or none for somebody else
	Loaded bool        `json:"loaded"` // they are there
	Since  schema.Time `json:"since"`  // without a break; null where that is not known

	Contested bool `json:"contested"` // another program keeps removing them
}

// KeepsRemoving is in the problem of contested rules, whether they are there or not.
const KeepsRemoving = "another program keeps removing"

// Contested is the problem of contested rules where they do not keep the daemon from being ready.
const Contested = KeepsRemoving + " the firewall rules; the daemon loads them again after a pause, and only then edits new calls"

// FastPath is the fast path, as far as the daemon knows.
type FastPath struct {
	Mode    string `json:"mode"` // as --fastpath
	XDP     int    `json:"interfaces_xdp"`
	TC      int    `json:"interfaces_tc"`
	Missing int    `json:"interfaces_missing"`
}

// Cluster is how this gateway does among those that share their calls.
type Cluster struct {
	Name     string `json:"name"`
	State    string `json:"state"` // in words, "ok" if all is well
	Gateways int    `json:"gateways"`
}

// LogLine is a line of the daemon's log.
type LogLine struct {
	Time schema.Time `json:"time"`
	Text string      `json:"text"`
}

// Sums are over all calls. What is counted, is counted since the daemon was started.
type Sums struct {
	AsOf           schema.Time    `json:"as_of"`
	Started        schema.Time    `json:"started"`
	Calls          Count          `json:"calls"`
	Rate           *admin.Traffic `json:"rate"`                     // GRE per second, both ways; null where it is not known
	CallIDSpace    float64        `json:"call_id_space_used_ratio"` // of the fullest space, 0 to 1
	CallIDsResting uint64         `json:"call_ids_resting"`
	TableUsed      float64        `json:"conntrack_table_used_ratio"`     // 0 where it is not known
	CallsUsed      float64        `json:"calls_used_ratio"`               // of --max-calls
	LinksUsed      float64        `json:"control_connections_used_ratio"` // of --max-connections
	Connections    uint64         `json:"control_connections"`            // that are edited
	Untouched      uint64         `json:"control_connections_untouched"`  // those that are ignored: not translated, not PPTP, or the kernel helper's
	Opened         uint64         `json:"calls_opened_total"`
	Refused        uint64         `json:"calls_refused_total"`     // by their servers
	Unedited       uint64         `json:"requests_unedited_total"` // because there was no public ID, or a limit was reached
	Notes          []Note         `json:"notes"`
}

// Count is how many calls there are, and in which state.
type Count struct {
	All         int `json:"all"`
	Requested   int `json:"requested"`
	Answered    int `json:"answered"`
	Established int `json:"established"`
	Clearing    int `json:"clearing"`
	Counted     int `json:"counted"` // whose GRE is counted
	OneWay      int `json:"one_way"` // established, and their GRE comes from one end only
	Silent      int `json:"silent"`  // established, and no GRE has ever come
}

// List is the answer of /api/calls.
type List struct {
	SchemaVersion schema.Version `json:"schema_version"`
	Now           schema.Time    `json:"now"`
	AsOf          schema.Time    `json:"as_of"`
	All           int            `json:"all"`      // calls there are
	Matching      int            `json:"matching"` // calls that match the filter
	Offset        int            `json:"offset"`
	Calls         []Call         `json:"calls"`
}

// Call is a call as "pptpalg calls --json" prints it, with what a table needs beside.
type Call struct {
	admin.Call
	Client    string         `json:"client"`      // the end that opened the control connection: "pns" or "pac"
	ToPNSRate *admin.Traffic `json:"to_pns_rate"` // per second; null where it is not known
	ToPACRate *admin.Traffic `json:"to_pac_rate"`
}

func (s *snapshot) sums(most Limits) *Sums {
	f := s.figures
	return &Sums{
		AsOf: schema.At(s.at), Started: schema.At(f.started()), Rate: s.rate,
		Calls: Count{
			All: len(s.rows), Requested: s.states[calls.Requested], Answered: s.states[calls.Answered],
			Established: s.states[calls.Established], Clearing: s.states[calls.Clearing], Counted: s.counted,
			OneWay: s.hows[meter.OneWay], Silent: s.hows[meter.Silent],
		},
		TableUsed: ratio(f.sum("conntrack_table_entries"), f.sum("conntrack_table_limit")),
		CallsUsed: ratio(float64(len(s.rows)), float64(most.Calls)), LinksUsed: ratio(f.sum("control_connections", "control_connections_untouched"), float64(most.Connections)),
		CallIDSpace: f.sum("call_id_space_used_ratio"), CallIDsResting: f.count("call_ids_resting"),
		Connections: f.count("control_connections"), Untouched: f.count("control_connections_untouched"),
		Opened: f.count("calls_opened_total"), Refused: f.count("calls_closed_total/refused"),
		Unedited: f.count(unedited...), Notes: f.notes(),
	}
}

func ratio(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}

// rules tells of the firewall rules.
func (p *Page) rules() Rules {
	if p.cfg.Rules == nil {
		return Rules{}
	}
	by, since := p.cfg.Rules()
	return Rules{By: by, Loaded: !since.IsZero(), Since: schema.At(since), Contested: p.cfg.Contested != nil && p.cfg.Contested(p.now())}
}

// cluster tells of the gateways that share their calls.
func (p *Page) cluster() *Cluster {
	if p.cfg.Cluster == nil {
		return nil
	}
	st := p.cfg.Cluster.Status()
	return &Cluster{Name: st.Name, State: st.State(), Gateways: len(st.Members)}
}

func (p *Page) fastPath(f figures) FastPath {
	fast := FastPath{Mode: p.cfg.FastPath, XDP: int(f.count("fastpath_interfaces/xdp")), TC: int(f.count("fastpath_interfaces/tc")), Missing: int(f.count("fastpath_interfaces_missing"))}
	if fast.Mode == "" {
		fast.Mode = "off"
	}
	return fast
}

// problems says what is wrong, from what does not wait for the daemon.
func (p *Page) problems(st *Status) {
	st.Problems = []string{}
	st.Ready, st.Healthy = true, true
	if err := p.cfg.Healthy(st.Now.Time); err != nil {
		st.Ready, st.Healthy = false, false
		st.Problems = append(st.Problems, err.Error())
	} else if err := p.cfg.Ready(st.Now.Time); err != nil {
		st.Ready = false
		st.Problems = append(st.Problems, err.Error())
	}
	known := slices.ContainsFunc(st.Problems, func(text string) bool { return strings.Contains(text, KeepsRemoving) })
	if st.Rules.Contested && !known {
		st.Problems = append(st.Problems, Contested)
	}
	if c := st.Cluster; c != nil && c.State != admin.ClusterOK {
		st.Problems = append(st.Problems, fmt.Sprintf("in its cluster this gateway is %s; \"pptpalg cluster status\" says more", c.State))
	}
}

func (r *row) call() Call {
	toPNS, toPAC, client := r.toClient, r.toServer, "pns"
	if r.client != &r.PNS {
		toPNS, toPAC, client = toPAC, toPNS, "pac"
	}
	return Call{Call: admin.NewCall(r.View, toPNS.carried, toPAC.carried, r.how), Client: client, ToPNSRate: toPNS.rate, ToPACRate: toPAC.rate}
}
