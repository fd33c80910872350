package history

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/alg/pptp"
	"pptpalg/cmd/pptpalg/internal/schema"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// at is a record of a call of client 10.0.0.1, whose Call ID 7 is 255 outside, so many
// minutes after noon.
func at(minute int, event string, call uint64) Record {
	own, public := pptp.CallID(7), pptp.CallID(255)
	r := Record{Time: schema.At(noon.Add(time.Duration(minute) * time.Minute)), Event: event, CallRecord: &CallRecord{
		Call: call, Client: netip.MustParseAddrPort("10.0.0.1:1000"), ClientPublic: netip.MustParseAddrPort("192.0.2.1:2000"),
		Server: netip.MustParseAddrPort("203.0.113.1:1723"), ServerPublic: netip.MustParseAddrPort("203.0.113.1:1723"),
		ClientCallID: &own, ClientPublicCallID: &public,
	}}
	if event != "opened" {
		id := pptp.CallID(9)
		r.ServerCallID, r.ServerPublicCallID = &id, &id
	}
	return r
}

// closed is the last record of a call.
func closed(minute int, call uint64, opened int) Record {
	r := at(minute, "closed", call)
	r.Closing = &Closing{Opened: schema.At(noon.Add(time.Duration(opened) * time.Minute))}
	return r
}

func party(t *testing.T, text string) Party {
	t.Helper()
	p, err := ParseParty(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSelects(t *testing.T) {
	translated, opened, rules := at(0, "translated", 1), at(0, "opened", 1), Record{Time: schema.At(noon), Event: "rules_lost"}
	for _, tt := range []struct {
		name                   string
		client, server, public string
		since, until           time.Time
		record                 Record
		want                   bool
	}{
		{name: "nothing is asked", record: translated, want: true},
		{name: "rules", record: rules, want: true},
		{name: "the client", client: "10.0.0.1", record: translated, want: true},
		{name: "another client", client: "10.0.0.2", record: translated},
		{name: "the rules are no client's", client: "10.0.0.1", record: rules},
		{name: "lost events may be the client's", client: "10.0.0.1", record: NewLost(1, noon), want: true},
		{name: "public address", public: "192.0.2.1", record: translated, want: true},
		{name: "public address and Call ID", public: "192.0.2.1/255", record: translated, want: true},
		{name: "the own Call ID is not the public one", public: "192.0.2.1/7", record: translated},
		{name: "public port", public: "192.0.2.1:2000", record: translated, want: true},
		{name: "another public port", public: "192.0.2.1:2001", record: translated},
		{name: "public port and Call ID", public: "192.0.2.1:2000/255", record: translated, want: true},
		{name: "the server's public Call ID", public: "203.0.113.1/9", record: translated, want: true},
		{name: "which is not known yet", public: "203.0.113.1/9", record: opened},
		{name: "client and server", client: "10.0.0.1/7", server: "203.0.113.1:1723", record: translated, want: true},
		{name: "client and another server", client: "10.0.0.1/7", server: "203.0.113.2", record: translated},
		{name: "from the time on", since: noon, record: translated, want: true},
		{name: "too early", since: noon.Add(1), record: translated},
		{name: "before the time", until: noon.Add(1), record: translated, want: true},
		{name: "not at the end", until: noon, record: translated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := Query{Since: tt.since, Until: tt.until}
			for text, to := range map[string]*Party{tt.client: &q.Client, tt.server: &q.Server, tt.public: &q.Public} {
				if text != "" {
					*to = party(t, text)
				}
			}
			if got := q.Selects(&tt.record); got != tt.want {
				t.Errorf("it selects %v: %v, want %v", tt.record, got, tt.want)
			}
		})
	}
}

func TestParsePartyRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":               `"" is not an IPv4 address`,
		"x":              `"x" is not an IPv4 address`,
		"fade::1":        `"fade::1" is not an IPv4 address`,
		"fe80::1/7":      `"fe80::1" is not an IPv4 address`,
		"2001:db8::1":    `"2001:db8::1" is not an IPv4 address`,
		"10.0.0.1/65536": `"65536" is not a Call ID from 0 to 65535`,
		"10.0.0.1/":      `"" is not a Call ID`,
		"10.0.0.0/x":     `"x" is not a Call ID`,
		"10.0.0.1:0":     `"0" is not a port from 1 to 65535`,
	} {
		if p, err := ParseParty(text); err == nil || !strings.Contains(err.Error(), want) || p != (Party{}) {
			t.Errorf("%q is %v (%v), want %s", text, p, err, want)
		}
	}
}

// TestUpAt asks who was up at noon.
func TestUpAt(t *testing.T) {
	for _, tt := range []struct {
		name   string
		public string
		all    []Record
		want   []int // of all
	}{
		{"before, and after", "", []Record{at(-9, "opened", 1), closed(-1, 1, -9), at(1, "opened", 2), at(1, "translated", 2), closed(2, 2, 1)}, nil},
		{"up", "", []Record{at(-1, "opened", 1), at(-1, "translated", 1), closed(1, 1, -1)}, []int{0, 1, 2}},
		{"never closed", "", []Record{at(-1, "opened", 1)}, []int{0}},
		{"opened at that moment", "", []Record{at(0, "opened", 1)}, []int{0}},
		{"closed at that moment", "", []Record{at(-1, "opened", 1), closed(0, 1, -1)}, nil},
		{"translated later", "", []Record{at(-1, "opened", 1), at(1, "translated", 1)}, []int{0, 1}},
		{"only its end is on record", "", []Record{closed(1, 1, -1)}, []int{0}},
		{"of another's public Call ID", "192.0.2.1/256", []Record{at(-1, "opened", 1)}, nil},
		{"by an ID that its first record lacks", "203.0.113.1/9", []Record{at(-1, "opened", 1), at(-1, "translated", 1)}, []int{0, 1}},
		{"a number that is given out again", "", []Record{at(-9, "opened", 1), closed(-8, 1, -9), at(-1, "opened", 1), closed(2, 1, -1)}, []int{2, 3}},
		{"a number given out again, without an end", "", []Record{at(-9, "opened", 1), at(-1, "opened", 1)}, []int{1}},
		{"a number given out again later", "", []Record{at(-1, "opened", 1), at(1, "opened", 1), at(2, "translated", 1)}, []int{0}},
		{"the rules are no call", "", []Record{{Time: schema.At(noon.Add(-1)), Event: "rules_lost"}}, nil},
		{"what was lost may be one", "", []Record{NewLost(2, noon.Add(-time.Minute)), NewLost(2, noon.Add(time.Minute))}, []int{0}},
		{"call by call", "", []Record{at(-3, "opened", 1), at(-2, "opened", 2), at(-1, "translated", 1), closed(1, 2, -2)}, []int{0, 2, 1, 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var q Query
			if tt.public != "" {
				q.Public = party(t, tt.public)
			}
			up := UpAt(noon, q)
			for _, r := range tt.all {
				up.Add(r)
			}
			var want []string
			for _, i := range tt.want {
				want = append(want, tt.all[i].String())
			}
			if diff := cmp.Diff(want, texts(up.Records())); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func texts(all []Record) (lines []string) {
	for _, r := range all {
		lines = append(lines, r.String())
	}
	return lines
}

// TestReadFiles reads a log that logrotate has rotated and compressed, and in which a crash
// has cut a line.
func TestReadFiles(t *testing.T) {
	dir := t.TempDir()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	fmt.Fprintf(z, "%s", line(at(1, "opened", 1)))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"events.json":            string(line(at(4, "opened", 4))) + `{"time":"2026-`,
		"events.json.1":          string(line(at(3, "opened", 3))),
		"events.json-20260102":   string(line(at(2, "opened", 2))),
		"events.json.2.gz":       zipped.String(),
		"events.json.bak":        "not ours",
		"other.json":             "not ours",
		"events-of-yours.json":   "not ours",
		"events-20260101.json":   string(line(at(-1, "opened", 5))),
		"events.json.unreadable": "not ours",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Rotated(filepath.Join(dir, "events.json"))
	if err != nil {
		t.Fatal(err)
	}
	var order []uint64
	broken, err := ReadFiles(files, func(r Record) error {
		order = append(order, r.Call)
		return nil
	})
	if err != nil || broken != 1 {
		t.Errorf("broken: %d, %v", broken, err)
	}
	if diff := cmp.Diff([]uint64{5, 1, 2, 3, 4}, order); diff != "" {
		t.Errorf("order of calls (-want +got):\n%s", diff)
	}
}

func TestReadFilesRefuses(t *testing.T) {
	dir := t.TempDir()
	packed := filepath.Join(dir, "events.1.xz")
	if err := os.WriteFile(packed, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{packed: "only gzip", filepath.Join(dir, "none"): "no such file", dir + "/none/none": "no such file"} {
		files, err := Rotated(file)
		if err == nil {
			_, err = ReadFiles(files, func(Record) error { return nil })
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", file, err, want)
		}
	}
}
