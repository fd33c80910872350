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
			err = Taken(err)
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
	if got := Taken(os.ErrClosed); got != os.ErrClosed {
		t.Errorf("another error became %v", got)
	}
	if got := Owner(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}); got != "" {
		t.Errorf("a port that nobody has is %s's", got)
	}
}
