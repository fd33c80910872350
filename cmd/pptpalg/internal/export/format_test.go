package export

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pptpalg/cmd/pptpalg/internal/history"
)

func TestSyslog(t *testing.T) {
	target := parse(t, "syslog+udp://192.0.2.1?facility=local0&hostname=gw")
	s := newSyslog(&target).(*syslog)
	s.process = 5
	rulesLost := history.NewRecord(history.Event{Time: noon, Kind: history.RulesLost})
	lost := history.NewLost(3, noon)
	for _, tt := range []struct {
		name string
		r    *history.Record
		want string
	}{
		{"opened", record(opened(2)), `<134>1 2026-01-02T12:00:00.123Z gw pptpalg 5 opened [pptpalg@32473 call="2" client="10.0.0.1:1000" client_public="192.0.2.1:2000" server="203.0.113.1:1723" server_public="203.0.113.1:1723" pns="client" client_call_id="7" client_public_call_id="255"] opened call=2 client=10.0.0.1:1000/7 public=192.0.2.1:2000/255 server=203.0.113.1:1723/-`},
		{"closed", record(closed(2, true)), `<134>1 2026-01-02T12:00:01.623Z gw pptpalg 5 closed [pptpalg@32473 call="2" client="10.0.0.1:1000" client_public="192.0.2.1:2000" server="203.0.113.1:1723" server_public="203.0.113.1:1723" pns="client" client_call_id="7" client_public_call_id="255" server_call_id="900" server_public_call_id="900" opened="2026-01-02T12:00:00.123Z" seconds="1.500" reason="cleared" to_client_packets="3" to_client_bytes="144" to_server_packets="4" to_server_bytes="200"] closed call=2 client=10.0.0.1:1000/7 public=192.0.2.1:2000/255 server=203.0.113.1:1723/900 reason=cleared seconds=1.500 to_client=3/144 to_server=4/200`},
		{"rules are lost", &rulesLost, `<132>1 2026-01-02T12:00:00.123Z gw pptpalg 5 rules_lost - rules_lost`},
		{"events are lost", &lost, `<132>1 2026-01-02T12:00:00.123Z gw pptpalg 5 lost [pptpalg@32473 lost="3"] lost events=3`},
	} {
		if diff := cmp.Diff(tt.want, string(s.frame(s.payload(tt.r)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	s.stream = true
	if got := string(s.frame([]byte("twelve bytes"))); got != "12 twelve bytes" {
		t.Errorf("in a stream: %q", got)
	}
	if got := value.Replace(`a"b]c\`); got != `a\"b\]c\\` {
		t.Errorf("escaped: %s", got)
	}
}

func TestJournal(t *testing.T) {
	j := journal{}
	got := string(j.frame(j.payload(record(opened(2)))))
	want := `PRIORITY=6
SYSLOG_IDENTIFIER=pptpalg
MESSAGE=opened call=2 client=10.0.0.1:1000/7 public=192.0.2.1:2000/255 server=203.0.113.1:1723/-
PPTPALG_TIME=2026-01-02T12:00:00.123Z
PPTPALG_EVENT=opened
PPTPALG_CALL=2
PPTPALG_CLIENT=10.0.0.1:1000
PPTPALG_CLIENT_PUBLIC=192.0.2.1:2000
PPTPALG_SERVER=203.0.113.1:1723
PPTPALG_SERVER_PUBLIC=203.0.113.1:1723
PPTPALG_PNS=client
PPTPALG_CLIENT_CALL_ID=7
PPTPALG_CLIENT_PUBLIC_CALL_ID=255
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// element is a field specifier of RFC 7011 section 3.2.
type element struct{ enterprise, id, length int }

// ipfixMessage reads a message with the templates that were read before, and returns the
// sequence number and each record as lines.
func ipfixMessage(t *testing.T, b []byte, known map[int][]element) (sequence uint32, records []string) {
	t.Helper()
	if binary.BigEndian.Uint16(b) != 10 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		t.Fatalf("% x is not a message of version 10 and its length", b)
	}
	sequence = binary.BigEndian.Uint32(b[8:])
	for b = b[16:]; len(b) > 0; {
		set, length := int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		body := b[4:length]
		b = b[length:]
		if set == 2 {
			readTemplates(body, known)
			continue
		}
		records = append(records, ipfixRecord(t, body, known[set]))
	}
	return sequence, records
}

func readTemplates(b []byte, known map[int][]element) {
	for len(b) > 0 {
		number, fields := int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		known[number] = nil
		b = b[4:]
		for range fields {
			e := element{id: int(binary.BigEndian.Uint16(b)), length: int(binary.BigEndian.Uint16(b[2:]))}
			b = b[4:]
			if e.id&0x8000 != 0 {
				e.id, e.enterprise = e.id&0x7fff, int(binary.BigEndian.Uint32(b))
				b = b[4:]
			}
			known[number] = append(known[number], e)
		}
	}
}

func ipfixRecord(t *testing.T, b []byte, fields []element) string {
	t.Helper()
	var all []string
	for _, e := range fields {
		length := e.length
		if length == variable {
			length = int(b[0])
			b = b[1:]
		}
		name := fmt.Sprint(e.id)
		if e.enterprise != 0 {
			name = fmt.Sprintf("%d.%d", e.enterprise, e.id)
		}
		all = append(all, name+"="+ipfixValue(b[:length], e))
		b = b[length:]
	}
	if len(b) != 0 {
		t.Errorf("% x is left of the record", b)
	}
	return strings.Join(all, " ")
}

func ipfixValue(b []byte, e element) string {
	switch {
	case e.length == variable:
		return string(b)
	case e.enterprise == 0 && (e.id == 8 || e.id == 12 || e.id == 225 || e.id == 226):
		return netip.AddrFrom4([4]byte(b)).String()
	}
	var n uint64
	for _, digit := range b {
		n = n<<8 | uint64(digit)
	}
	if e.length == 8 && e.enterprise == 0 && (e.id == 323 || e.id == 152 || e.id == 153) {
		return time.UnixMilli(int64(n)).UTC().Format("15:04:05.000")
	}
	return fmt.Sprint(n)
}

func TestIPFIX(t *testing.T) {
	const (
		names = " 4=47 8=10.0.0.1 225=192.0.2.1 12=203.0.113.1 226=203.0.113.1 7=7 227=255 11=900 228=900"
		our   = " 32473.1=2 32473.2=7 32473.3=255 32473.4=900 32473.5=900 32473.6=1000 32473.7=2000 32473.8=1723 32473.9=1723"
		begun = "323=12:00:00.123 152=12:00:00.123 230=4" + names
		over  = "323=12:00:01.623 152=12:00:00.123 230=5" + names
		times = " 153=12:00:01.623"
	)
	refused := closed(2, false)
	refused.Call.Legs[1].Known = false
	for _, tt := range []struct {
		name, options string
		e             history.Event
		want          string
	}{
		{"opened", "", opened(2), ""},
		{"translated", "", translated(2), begun + our},
		{"closed", "", closed(2, false), over + our + times + " 32473.10=cleared"},
		{"closed, and counted", "", closed(2, true), over + our + times + " 32473.10=cleared 1=200 2=4 29305.1=144 29305.2=3 32473.11=0"},
		{"closed before it was translated", "", refused, ""},
		{"without enterprise elements", "?enterprise=0", closed(2, true), over + times + " 1=200 2=4 29305.1=144 29305.2=3"},
		{"the rules", "", history.Event{Time: noon, Kind: history.RulesLost}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := parse(t, "ipfix+udp://192.0.2.1"+tt.options)
			x := newIPFIX(&target)
			payload := x.payload(record(tt.e))
			if tt.want == "" {
				if payload != nil {
					t.Errorf("it is told of: % x", payload)
				}
				return
			}
			_, got := ipfixMessage(t, x.frame(payload), make(map[int][]element))
			if diff := cmp.Diff([]string{tt.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestIPFIXSequence: in a stream the templates come once, and the records count from 0.
// Those that were lost leave a gap.
func TestIPFIXSequence(t *testing.T) {
	target := parse(t, "ipfix+tcp://192.0.2.1?domain=7")
	x := newIPFIX(&target)
	payload := x.payload(record(translated(1)))
	lost := history.NewLost(5, noon)
	for range 2 {
		known := make(map[int][]element)
		if sequence, records := ipfixMessage(t, x.start(), known); sequence != 0 || records != nil || len(known) != len(templates) {
			t.Errorf("it begins with %d: %v and %d templates", sequence, records, len(known))
		}
		for _, want := range []uint32{0, 1} {
			b := x.frame(payload)
			if sequence, records := ipfixMessage(t, b, known); sequence != want || len(records) != 1 || binary.BigEndian.Uint32(b[12:]) != 7 {
				t.Errorf("%d: %v, want %d", sequence, records, want)
			}
		}
		if b := x.frame(x.payload(&lost)); b != nil {
			t.Errorf("lost events are % x", b)
		}
		if sequence, _ := ipfixMessage(t, x.frame(payload), known); sequence != 7 {
			t.Errorf("after 2 and 5 lost records: %d", sequence)
		}
	}
}
