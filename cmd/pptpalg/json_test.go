package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"pptpalg/alg/calls"
	"pptpalg/alg/pptp"
	"pptpalg/cmd/internal/promise"
	"pptpalg/cmd/pptpalg/internal/admin"
	"pptpalg/cmd/pptpalg/internal/check"
	"pptpalg/cmd/pptpalg/internal/explain"
	"pptpalg/cmd/pptpalg/internal/history"
	"pptpalg/cmd/pptpalg/internal/schema"
	"pptpalg/cmd/pptpalg/internal/status"
)

// keeps holds a document against a schema of docs/schema.
func keeps(t *testing.T, name, document string) {
	t.Helper()
	if err := promise.Check(name, []byte(document)); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	var v any
	d := json.NewDecoder(strings.NewReader(document))
	d.UseNumber()
	must(t, d.Decode(&v))
	if wrong := broken(name, "", v); len(wrong) > 0 {
		t.Errorf("%s: docs/JSON.md promises integers: %q", name, wrong)
	}
}

// fractions are the numbers that are no integers, by the ends of their names, and their forms.
var fractions = map[string]*regexp.Regexp{
	"_ratio":  regexp.MustCompile(`^(0|1|0\.\d+|\d(\.\d+)?e-\d+)$`),
	"seconds": regexp.MustCompile(`^\d+\.\d{3}$`),
	"time":    regexp.MustCompile(`^\d+\.\d{6}$`), // of a replay
}

var integer = regexp.MustCompile(`^-?\d+$`)

// broken lists the numbers whose form is not the one that docs/JSON.md promises.
func broken(schema, key string, v any) (wrong []string) {
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			wrong = append(wrong, broken(schema, name, field)...)
		}
	case []any:
		for _, element := range v {
			wrong = append(wrong, broken(schema, key, element)...)
		}
	case json.Number:
		form := integer
		for end, fraction := range fractions {
			if strings.HasSuffix(key, end) && (end != "time" || schema == "replay") {
				form = fraction
			}
		}
		if !form.MatchString(v.String()) {
			wrong = append(wrong, key+" "+v.String())
		}
	}
	return wrong
}

// TestNumbersOfSchemas: the schemas, too, have integers only, except for what docs/JSON.md names.
func TestNumbersOfSchemas(t *testing.T) {
	found := regexp.MustCompile(`"(\w+)": \{\s*"type": (?:"number"|\[[^]]*"number")`)
	files, err := filepath.Glob("../../docs/schema/*.json")
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, m := range found.FindAllSubmatch(text, -1) {
			name := string(m[1])
			if !strings.HasSuffix(name, "_ratio") && (filepath.Base(file) != "common.json" || name != "seconds" && name != "moment") {
				t.Errorf("%s: %s is a number that may be no integer", file, name)
			}
		}
	}
}

// TestSchemas holds what may be printed, with everything and with nothing in it, against the
// schemas. The tests with a daemon do the same with what it prints.
func TestSchemas(t *testing.T) {
	id := pptp.CallID(7)
	at := schema.At(time.Now())
	traffic := &admin.Traffic{Packets: 1, Bytes: 2}
	party := admin.Party{Address: "10.0.0.1", PublicAddress: "192.0.2.1"}
	known := admin.Party{Address: "10.0.0.1", PublicAddress: "192.0.2.1", CallID: &id, PublicCallID: &id}
	control := admin.Control{Src: "10.0.0.1:1", Dst: "192.0.2.1:1723"}
	call := admin.Call{Number: 1, PNS: party, PAC: party, State: "requested", Since: at, Control: control, Carries: "unknown"}
	full := admin.Call{Number: 1, PNS: known, PAC: known, State: "established", Since: at, Control: control, Owner: "a", OwnedHere: true, ToPNS: traffic, ToPAC: traffic, Carries: "one_way", NoneTo: "pns", NoneSince: &at}
	ends := [2]history.End{{Address: netip.MustParseAddrPort("10.0.0.1:1"), Public: netip.MustParseAddrPort("192.0.2.1:1")}, {Address: netip.MustParseAddrPort("203.0.113.1:1723"), Public: netip.MustParseAddrPort("203.0.113.1:1723")}}
	event := func(kind history.Kind, counted bool) history.Record {
		e := history.Event{Time: at.Time, Kind: kind, Ends: ends, Call: history.Call{Legs: [2]calls.LegRecord{{Known: true}}, Since: at.Time, Approximate: counted}}
		e.Call.Traffic[0].Counted = counted
		return history.NewRecord(e)
	}
	report := explain.New(explain.Facts{Client: netip.MustParseAddr("10.0.0.1"), Now: at.Time})
	filled := report
	filled.Control = &explain.Control{Src: ends[0].Address, Dst: ends[1].Address, PublicSrc: ends[0].Public, RealDst: ends[1].Address, NAT: "source", Last: at}
	filled.Messages = []explain.Message{{Time: at, From: netip.MustParseAddr("10.0.0.1"), CallID: &explain.ID{From: 1, To: 2}, Peer: &explain.ID{}}}
	filled.Calls = []explain.CallLine{{State: "established", Since: at, ToClient: explain.GRE{Packets: &traffic.Packets, Bytes: &traffic.Bytes}}}
	filled.Ended = []explain.Ended{{Time: at, Seconds: 1}}
	for _, tt := range []struct {
		schema string
		v      any
	}{
		{"calls", []admin.Listed{}},
		{"calls", []admin.Listed{{Call: call}, {Call: full}}},
		{"event", event(history.CallRequested, false)},
		{"event", event(history.CallTranslated, false)},
		{"event", event(history.CallClosed, false)},
		{"event", event(history.CallClosed, true)},
		{"event", event(history.RulesLost, false)},
		{"event", event(history.RulesBack, false)},
		{"event", history.NewLost(3, at.Time)},
		{"explain", report},
		{"explain", filled},
		{"explain-all", []explain.Report{report, filled}},
		{"api-explain", status.Explanation{Report: filled, Evidence: "x"}},
		{"api-history", status.History{Now: at, Span: 3600, Samples: []status.Sample{{At: at, ToClients: 15}}}},
		{"check", check.Findings{}},
		{"check", check.Findings{{Check: "daemon"}, {Check: "nat", Result: check.Unchecked, Found: "x", Remedy: "y"}}},
		{"cluster-status", admin.Cluster{Members: []admin.ClusterMember{}, Addresses: []admin.ClusterAddress{}}},
		{"cluster-status", admin.Cluster{NotReady: "x", SameName: true, LastError: "x", Members: []admin.ClusterMember{{Since: at}}, Addresses: []admin.ClusterAddress{{Address: "192.0.2.1"}}}},
		{"fastpath-status", fastStatus{WantedBy: byDaemon, Interfaces: []fastPort{{Wanted: "xdp", Attached: "none"}}, Packets: map[string]uint64{"tc": 1}}},
		{"api-status", status.Status{DataPath: "kernel", Now: at, Problems: []string{}}},
		{"api-status", status.Status{DataPath: "queue", Now: at, Problems: []string{"x"}, Sums: &status.Sums{AsOf: at, Rate: traffic, Notes: []status.Note{{Count: 1, Text: "x"}}}}},
		{"api-status", status.Status{DataPath: "queue", Now: at, Problems: []string{}, Rules: status.Rules{By: "nft", Loaded: true, Since: at}, Cluster: &status.Cluster{}, LastError: &status.LogLine{Time: at}}},
		{"status", statusReport{State: stateStopped, Problems: []statusProblem{{Text: "x", Remedy: "y"}}}},
		{"status", statusReport{State: stateOK, Problems: []statusProblem{}, Checked: true, Daemon: &status.Status{DataPath: "kernel", Now: at, Problems: []string{}}}},
		{"api-calls", status.List{Now: at, AsOf: at, Calls: []status.Call{}}},
		{"api-calls", status.List{Now: at, AsOf: at, Calls: []status.Call{{Call: call, Client: "pns"}, {Call: full, Client: "pac", ToPNSRate: traffic, ToPACRate: traffic}}}},
	} {
		b, err := json.Marshal(tt.v)
		must(t, err)
		keeps(t, tt.schema, string(b))
		if path := bareTime(reflect.TypeOf(tt.v)); path != "" {
			t.Errorf("%T%s is a time whose form varies: use schema.Time", tt.v, path)
		}
	}
}

// bareTime returns where a type has a time.Time, "" for nowhere.
func bareTime(of reflect.Type) string {
	switch of.Kind() {
	case reflect.Slice, reflect.Pointer, reflect.Map, reflect.Array:
		return bareTime(of.Elem())
	case reflect.Struct:
	default:
		return ""
	}
	if of == reflect.TypeFor[time.Time]() {
		return " "
	}
	if of == reflect.TypeFor[schema.Time]() {
		return ""
	}
	for field := range of.Fields() {
		if field.IsExported() || field.Anonymous {
			if path := bareTime(field.Type); path != "" {
				return "." + field.Name + path
			}
		}
	}
	return ""
}
