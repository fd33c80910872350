package sockets

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Plain says in plain words why a TCP address cannot be listened on, or why the name of a host
// has no address. It names the process that has the address, as far as the caller may see that.
// Any other error is returned as it is.
func Plain(err error) error {
	var name *net.DNSError
	if errors.As(err, &name) {
		return plain{unresolved(name), err}
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		return err
	}
	if addr, ok := op.Addr.(*net.TCPAddr); ok && op.Op == "listen" {
		return unbound(err, addr)
	}
	return err
}

func unresolved(err *net.DNSError) string {
	if err.IsNotFound {
		return fmt.Sprintf("the name %q is not known", err.Name)
	}
	return fmt.Sprintf("the name %q cannot be resolved: no name server answers", err.Name)
}

// unbound says why an address cannot be listened on.
func unbound(err error, addr *net.TCPAddr) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return plain{taken(addr), err}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return plain{fmt.Sprintf("this machine has no address %v", addr.IP), err}
	case errors.Is(err, syscall.EACCES):
		return plain{fmt.Sprintf("no permission for port %d: it needs root or CAP_NET_BIND_SERVICE", addr.Port), err}
	}
	return err
}

// taken says who has an address.
func taken(addr *net.TCPAddr) string {
	owner := Owner(addr)
	if owner == "" {
		owner = fmt.Sprintf(`another process ("ss -ltnp sport = :%d" as root names it)`, addr.Port)
	}
	return fmt.Sprintf("%v is in use by %s", addr, owner)
}

// plain has words of its own for an error.
type plain struct {
	text string
	err  error
}

func (p plain) Error() string { return p.text }
func (p plain) Unwrap() error { return p.err }
