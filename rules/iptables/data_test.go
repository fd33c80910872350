package iptables

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pptpalg/rules"
	"pptpalg/rules/internal/trial"
)

// dataPath is a configuration with all that there is.
var dataPath = rules.Config{Queue: 1723, Ports: []uint16{1723}, Data: rules.Data{
	Queue: 1730, Queues: 4, ByCPU: true, Bypass: true, Mark: rules.DefaultMark,
}}

// readTables returns the listings of the tables with dataPath loaded.
func readTables(t *testing.T) map[string]string {
	t.Helper()
	return readLists(t, "data-")
}

func readLists(t *testing.T, prefix string) map[string]string {
	t.Helper()
	lists := make(map[string]string)
	for _, table := range dataTables {
		lists[table] = read(t, prefix+table+".list")
	}
	return lists
}

func TestDataTexts(t *testing.T) {
	loaded := readTables(t)
	queueOnly := rules.Data{Queue: 9, Queues: 1}
	rows := []struct{ golden, got string }{
		{"print-data.rules", Text(dataPath)},
		{"print-data-one-queue.rules", loadText(queueOnly, nil)},
		{"reload-data.rules", loadText(dataPath.Data, loaded)},
		{"reload-data-labels.rules", loadText(dataPath.Data, readLists(t, "data-labels-"))}, // of an older version
		{"reload-data-one-queue.rules", loadText(queueOnly, loaded)},
		{"unload-data.rules", unloadParts(DataChain, dataTables, loaded)},
		{"reload.rules", LoadText(loaded["mangle"], onePort)},
	}
	for _, row := range rows {
		trial.Golden(t, row.golden, row.got)
	}
	if got := unloadParts(DataChain, dataTables, map[string]string{"mangle": read(t, "loaded.list")}); got != "" {
		t.Errorf("unloadParts = %q, want nothing", got)
	}
}

// What Load and Unload do of the data path's rules, by the commands that they run.
func TestDataCommands(t *testing.T) {
	const (
		listMangle, listFilter, listRaw = "iptables -w 10 -t mangle -S", "iptables -w 10 -t filter -S", "iptables -w 10 -t raw -S"
		restore                         = "iptables-restore --noflush -w 10"
	)
	loaded := readTables(t)
	refused := errors.New("run iptables-restore: exit status 2: line 3 failed")
	listed := []answer{{stdout: loaded["mangle"]}, {stdout: loaded["filter"]}, {stdout: loaded["raw"]}}
	rows := []struct {
		name    string
		cfg     rules.Config
		answers []answer
		lines   []string
		err     bool
	}{
		{"load", dataPath, []answer{{}},
			[]string{listMangle, listFilter, listRaw, restore, listMangle, restore}, false},
		{"refused: nothing stays", dataPath, append(append([]answer{{}, {}, {}, {err: refused}}, listed...), answer{}),
			[]string{listMangle, listFilter, listRaw, restore, listMangle, listFilter, listRaw, restore}, true},
		{"without, another run's left", onePort, append(append([]answer{listed[0], {}}, listed...), answer{}),
			[]string{listMangle, restore, listMangle, listFilter, listRaw, restore}, false},
		{"without", onePort, []answer{{}}, []string{listMangle, restore}, false},
	}
	for _, row := range rows {
		s := &script{answers: row.answers}
		_, err := (&Firewall{Run: s.run}).Load(t.Context(), row.cfg)
		if (err != nil) != row.err {
			t.Errorf("%s: error %v", row.name, err)
		}
		var lines []string
		for _, c := range s.calls {
			lines = append(lines, c.Line)
		}
		if diff := cmp.Diff(row.lines, lines); diff != "" {
			t.Errorf("%s: commands (-want +got):\n%s", row.name, diff)
		}
	}
}

// When the control connections' rules are refused, the data path's go.
func TestDataGoesWithTheRest(t *testing.T) {
	gone := errors.Join(exec.ErrNotFound)
	loaded := readTables(t)
	s := &script{answers: []answer{{}, {}, {}, {}, {err: gone}, {stdout: loaded["mangle"]}, {stdout: loaded["filter"]}, {stdout: loaded["raw"]}, {}}}
	if _, err := (&Firewall{Run: s.run}).Load(t.Context(), dataPath); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if last := s.calls[len(s.calls)-1]; last.Stdin != read(t, "unload-data.rules") {
		t.Errorf("the last command was %+v", last)
	}
}
