package export

import (
	"net"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"journald", "journald"},
		{"journald:///tmp/socket", "journald:///tmp/socket"},
		{"syslog+udp://192.0.2.1", "syslog+udp://192.0.2.1:514"},
		{"syslog+tcp://log.example.net?facility=local0&hostname=gw1", "syslog+tcp://log.example.net:601"},
		{"syslog+tls://[2001:db8::1]:7000?ca=/ca.pem&cert=/c.pem&key=/k.pem&name=log", "syslog+tls://[2001:db8::1]:7000"},
		{"ipfix+udp://192.0.2.1?domain=7&enterprise=0", "ipfix+udp://192.0.2.1:4739"},
		{"ipfix+tcp://192.0.2.1", "ipfix+tcp://192.0.2.1:4739"},
		{"ipfix+tls://192.0.2.1", "ipfix+tls://192.0.2.1:4740"},
	} {
		got, err := Parse(tt.text)
		if err != nil || got.String() != tt.want {
			t.Errorf("%s is %v (%v), want %s", tt.text, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"", "does not begin with one of ipfix+tcp, ipfix+tls, ipfix+udp, journald, syslog+tcp, syslog+tls, syslog+udp"},
		{"192.0.2.1:514", "does not have the form"},
		{"syslog://192.0.2.1", "does not begin with one of"},
		{"syslog+udp://", "name or address is missing"},
		{"syslog+udp://192.0.2.1:0", `"0" is not a port`},
		{"syslog+udp://192.0.2.1:70000", `"70000" is not a port`},
		{"syslog+udp://192.0.2.1:x", "does not have the form"},
		{"syslog+udp://192.0.2.1/x", "more than SCHEME"},
		{"syslog+udp://192.0.2.1?ca=x", `has no option "ca", only facility, hostname`},
		{"syslog+udp://192.0.2.1?facility=x", `"x" is not a facility`},
		{"syslog+udp://192.0.2.1?hostname=a%20b", "not a host name"},
		{"syslog+tls://192.0.2.1?cert=x", "must be given together"},
		{"ipfix+udp://192.0.2.1?domain=-1", `domain: "-1" is not a whole number`},
		{"ipfix+udp://192.0.2.1?%zz", "OPTION=VALUE"},
		{"journald://192.0.2.1", "has no address"},
		{"journald:?domain=1", `has no option "domain", only an address`},
	} {
		if got, err := Parse(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s is %v (%v), want %s", tt.text, got, err, tt.want)
		}
	}
}

func TestOpenNeedsFiles(t *testing.T) {
	for _, text := range []string{"syslog+tls://192.0.2.1?ca=/nonexistent", "ipfix+tls://192.0.2.1?cert=/nonexistent&key=/nonexistent", "syslog+tls://192.0.2.1?ca=/dev/null"} {
		if _, err := Open(parse(t, text), nil, nil); err == nil || !strings.Contains(err.Error(), "export to ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestUnknownName: what Go's resolver says of itself is not shown.
func TestUnknownName(t *testing.T) {
	err := &net.OpError{Op: "dial", Net: "udp", Err: &net.DNSError{Err: "no such host", Name: "log.example.net", Server: "10.0.0.1:53", IsNotFound: true}}
	if got, want := plain(err).Error(), `the name "log.example.net" is not known`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
