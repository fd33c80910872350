package check

import (
	"net"
	"testing"

	"pptpalg/cmd/pptpalg/internal/export"
)

// TestCollectors: those that are there, those that are not, and those that cannot tell.
func TestCollectors(t *testing.T) {
	p := bare(t)
	var tcp net.Listener
	var udp net.PacketConn
	do(t, p, func() (err error) {
		if tcp, err = net.Listen("tcp4", "127.0.0.1:601"); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp4", "127.0.0.1:514")
		return err
	})
	defer tcp.Close()
	defer udp.Close()
	for _, tt := range []struct {
		name    string
		targets []string
		want    Result
		found   string
	}{
		{"none", nil, OK, "no collector of events"},
		{"syslog over TCP", []string{"syslog+tcp://127.0.0.1"}, OK, "syslog+tcp://127.0.0.1:601: connected"},
		{"syslog over UDP", []string{"syslog+udp://127.0.0.1"}, OK, "syslog+udp://127.0.0.1:514: sent without an error (UDP reports no more than that)"},
		{"nobody over TCP", []string{"syslog+tcp://127.0.0.1", "ipfix+tcp://127.0.0.1"}, Warning, "events do not reach 1 of 2 collectors: ipfix+tcp://127.0.0.1:4739: connect: connection refused"},
		{"nobody over UDP", []string{"ipfix+udp://127.0.0.1"}, Warning, "ipfix+udp://127.0.0.1:4739: "},
		{"nobody over UDP, who gets nothing", []string{"syslog+udp://127.0.0.1:515"}, Warning, "syslog+udp://127.0.0.1:515: "},
		{"no TLS there", []string{"syslog+tls://127.0.0.1:601"}, Warning, "syslog+tls://127.0.0.1:601: "},
		{"no such host", []string{"syslog+tcp://10.0.0.99"}, Warning, "syslog+tcp://10.0.0.99:601: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := findIn(t, p, "collectors", func(c *Config) {
				for _, text := range tt.targets {
					to, err := export.Parse(text)
					if err != nil {
						t.Fatal(err)
					}
					c.Exports = append(c.Exports, to)
				}
			})
			wants(t, f, tt.want, tt.found)
		})
	}
}
