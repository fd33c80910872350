package export

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// journalSocket is where systemd's journal listens.
const journalSocket = "/run/systemd/journal/socket"

// Target is a collector and how it is spoken to.
type Target struct {
	kind   kind
	scheme string
	host   string // name or address
	port   string
	path   string // of a socket, instead of host and port

	ca, cert, key, name string // of TLS: files, and the name in the collector's certificate
	facility            int    // of syslog
	hostname            string // of syslog; "" for the machine's
	domain              uint32 // of IPFIX
	enterprise          uint32 // of IPFIX; 0 for no enterprise elements
}

// kind is a way to speak to a collector.
type kind struct {
	network string // as net.Dial has it
	tls     bool
	port    string
	options []string
	format  func(*Target) format
}

var (
	tlsOptions    = []string{"ca", "cert", "key", "name"}
	syslogOptions = []string{"facility", "hostname"}
	ipfixOptions  = []string{"domain", "enterprise"}
)

var kinds = map[string]kind{
	"syslog+udp": {"udp", false, "514", syslogOptions, newSyslog},
	"syslog+tcp": {"tcp", false, "601", syslogOptions, newSyslog},
	"syslog+tls": {"tcp", true, "6514", slices.Concat(syslogOptions, tlsOptions), newSyslog},
	"ipfix+udp":  {"udp", false, "4739", ipfixOptions, newIPFIX},
	"ipfix+tcp":  {"tcp", false, "4739", ipfixOptions, newIPFIX},
	"ipfix+tls":  {"tcp", true, "4740", slices.Concat(ipfixOptions, tlsOptions), newIPFIX},
	"journald":   {"unixgram", false, "", nil, newJournal},
}

// examplePEN is the enterprise number that IANA keeps for examples: pptpalg has none.
const examplePEN = 32473

// Parse reads SCHEME://HOST[:PORT][?OPTION=VALUE...], or "journald".
func Parse(text string) (Target, error) {
	u, err := url.Parse(text)
	if text == "journald" {
		u, err = &url.URL{Scheme: text}, nil
	}
	if err != nil {
		return Target{}, fmt.Errorf("%q does not have the form SCHEME://HOST:PORT", text)
	}
	k, known := kinds[u.Scheme]
	if !known {
		return Target{}, fmt.Errorf("%q does not begin with one of %s", text, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	t := Target{kind: k, scheme: u.Scheme, facility: facilities["daemon"], enterprise: examplePEN}
	if err := t.address(u); err != nil {
		return Target{}, fmt.Errorf("%q: %w", text, err)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Target{}, fmt.Errorf("%q: the part after the question mark does not have the form OPTION=VALUE&OPTION=VALUE", text)
	}
	for _, option := range slices.Sorted(maps.Keys(query)) {
		if err := t.set(option, query.Get(option)); err != nil {
			return Target{}, fmt.Errorf("%q: %w", text, err)
		}
	}
	if (t.cert == "") != (t.key == "") {
		return Target{}, fmt.Errorf("%q: cert and key must be given together", text)
	}
	return t, nil
}

func (t *Target) address(u *url.URL) error {
	if t.kind.network == "unixgram" {
		t.path = cmp.Or(u.Path, journalSocket)
		if u.Host != "" {
			return errors.New("the journal is on this machine: it has no address")
		}
		return nil
	}
	t.host, t.port = u.Hostname(), cmp.Or(u.Port(), t.kind.port)
	if t.host == "" {
		return errors.New("the collector's name or address is missing")
	}
	if u.Path != "" || u.User != nil || u.Fragment != "" {
		return errors.New("there is more than SCHEME://HOST:PORT?OPTION=VALUE")
	}
	if n, err := strconv.ParseUint(t.port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is not a port from 1 to 65535", t.port)
	}
	return nil
}

func (t *Target) set(option, value string) error {
	if !slices.Contains(t.kind.options, option) {
		return fmt.Errorf("%s has no option %q, only %s", t.scheme, option, cmp.Or(strings.Join(t.kind.options, ", "), "an address"))
	}
	switch option {
	case "facility":
		facility, known := facilities[value]
		if !known {
			return fmt.Errorf("%q is not a facility such as daemon or local0", value)
		}
		t.facility = facility
		return nil
	case "domain":
		return number(option, value, &t.domain)
	case "enterprise":
		return number(option, value, &t.enterprise)
	case "hostname":
		if !printable(value) || len(value) > 255 {
			return fmt.Errorf("%q is not a host name", value)
		}
	}
	*map[string]*string{"ca": &t.ca, "cert": &t.cert, "key": &t.key, "name": &t.name, "hostname": &t.hostname}[option] = value
	return nil
}

func number(option, value string, to *uint32) error {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return fmt.Errorf("%s: %q is not a whole number from 0 to 4294967295", option, value)
	}
	*to = uint32(n)
	return nil
}

// String is the target without its options.
func (t Target) String() string {
	if t.path == journalSocket {
		return t.scheme
	}
	if t.path != "" {
		return t.scheme + "://" + t.path
	}
	return t.scheme + "://" + net.JoinHostPort(t.host, t.port)
}

// tls returns the configuration for TLS, nil without. It reads the files, which may be new.
func (t *Target) tls() (*tls.Config, error) {
	if !t.kind.tls {
		return nil, nil
	}
	c := &tls.Config{ServerName: cmp.Or(t.name, t.host), MinVersion: tls.VersionTLS12}
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read certificates: %s has none in PEM form", t.ca)
		}
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("read certificate of this gateway: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
