package etcd

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// Scheme is what the address of an etcd cluster begins with.
const Scheme = "etcd://"

// The first part of all keys, if no other one is named, and the version of what is below it.
const (
	defaultPrefix = "pptpalg"
	layout        = "1"
)

// Target is where the shared store is.
type Target struct {
	Endpoints []string // host:port
	Prefix    string   // of all keys, with a slash at both ends
}

var errNoHost = errors.New(`want etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`)

// ParseTarget reads etcd://HOST:PORT[,HOST:PORT...][/PREFIX].
func ParseTarget(s string) (Target, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok {
		return Target{}, errNoHost
	}
	hosts, prefix, _ := strings.Cut(rest, "/")
	endpoints := strings.Split(hosts, ",")
	for _, e := range endpoints {
		if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" {
			return Target{}, fmt.Errorf("%q: %w", e, errNoHost)
		}
	}
	if prefix = strings.Trim(prefix, "/"); prefix == "" {
		prefix = defaultPrefix
	}
	return Target{endpoints, "/" + prefix + "/" + layout + "/"}, nil
}
