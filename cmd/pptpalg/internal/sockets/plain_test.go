package sockets

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestTaken: who listens is named, however the address is written.
func TestTaken(t *testing.T) {
	for _, bound := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		l, err := net.Listen("tcp", bound)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		for _, wanted := range []string{"127.0.0.1:%d", "0.0.0.0:%d", ":%d"} {
			wanted = fmt.Sprintf(wanted, port)
			_, err := net.Listen("tcp", wanted)
			if err == nil {
				t.Fatalf("%s could be bound beside %s", wanted, bound)
			}
			err = Plain(err)
			if want := fmt.Sprintf("(process %d)", os.Getpid()); !strings.Contains(err.Error(), "is in use by ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s beside %s: %v, want %s", wanted, bound, err, want)
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%v is not what it was", err)
			}
		}
	}
}

func TestNotTaken(t *testing.T) {
	if got := Plain(os.ErrClosed); got != os.ErrClosed {
		t.Errorf("another error became %v", got)
	}
	if got := Owner(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}); got != "" {
		t.Errorf("a port that nobody has is %s's", got)
	}
}

// TestPlain: what Go's resolver and the kernel say of addresses is not shown.
func TestPlain(t *testing.T) {
	foreign := &net.OpError{Op: "listen", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9723}, Err: os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)}
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"another machine's address", foreign, "this machine has no address 192.0.2.1"},
		{"a low port", &net.OpError{Op: "listen", Net: "tcp", Addr: address, Err: syscall.EACCES}, "no permission for port 80: it needs root or CAP_NET_BIND_SERVICE"},
		{"an unknown name", &net.OpError{Op: "listen", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "foo", Server: "10.0.0.1:53", IsNotFound: true}}, `the name "foo" is not known`},
		{"no name server", &net.DNSError{Err: "dial udp 10.0.0.1:53: connect: network is unreachable", Name: "foo", Server: "10.0.0.1:53"}, `the name "foo" cannot be resolved: no name server answers`},
		{"a refusal", &net.OpError{Op: "dial", Net: "tcp", Addr: address, Err: syscall.ECONNREFUSED}, "dial tcp 127.0.0.1:80: connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Plain(tt.err); got.Error() != tt.want || !errors.Is(got, tt.err) {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}
