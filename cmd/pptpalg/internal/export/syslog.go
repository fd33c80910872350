package export

import (
	"fmt"
	"os"
	"strings"

	"pptpalg/cmd/pptpalg/internal/history"
)

// facilities of syslog, RFC 5424 section 6.2.1.
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// Severities of syslog.
const (
	warning = 4
	info    = 6
)

// severity of an event. What went wrong is a warning.
func severity(r *history.Record) int {
	if r.CallRecord == nil && r.Event != history.RulesBack.String() {
		return warning
	}
	return info
}

// structured is the SD-ID of an event's fields.
var structured = fmt.Sprintf("pptpalg@%d", examplePEN)

// syslog writes messages of RFC 5424: whole in datagrams (RFC 5426), and behind their length
// in streams (RFC 6587 section 3.4.1, RFC 5425).
type syslog struct {
	facility int
	host     string
	process  int
	stream   bool
}

func newSyslog(t *Target) format {
	s := &syslog{facility: t.facility, host: t.hostname, process: os.Getpid(), stream: t.kind.network == "tcp"}
	if s.host == "" {
		s.host, _ = os.Hostname()
	}
	if !printable(s.host) {
		s.host = "-" // NILVALUE
	}
	return s
}

// printable reports whether text is PRINTUSASCII, and not empty.
func printable(text string) bool {
	return text != "" && strings.IndexFunc(text, func(r rune) bool { return r < 33 || r > 126 }) < 0
}

// value of a structured field, RFC 5424 section 6.3.3.
var value = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`)

func (s *syslog) payload(r *history.Record) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "<%d>1 %s %s pptpalg %d %s ", s.facility*8+severity(r), r.Time, s.host, s.process, r.Event)
	fields := r.Fields()
	if len(fields) == 0 {
		b.WriteString("-")
	} else {
		b.WriteString("[" + structured)
		for _, f := range fields {
			fmt.Fprintf(&b, ` %s="%s"`, f.Name, value.Replace(f.Value))
		}
		b.WriteString("]")
	}
	b.WriteString(" " + r.Text())
	return []byte(b.String())
}

func (s *syslog) start() []byte { return nil }

func (s *syslog) frame(payload []byte) []byte {
	if !s.stream {
		return payload
	}
	return append(fmt.Appendf(nil, "%d ", len(payload)), payload...)
}
