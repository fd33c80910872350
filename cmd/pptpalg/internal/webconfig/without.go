//go:build noweb

package webconfig

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
)

var errWithout = errors.New("this pptpalg is built without web configurations (build tag noweb)")

// Validate refuses any file.
func Validate(file string) error {
	if file == "" {
		return nil
	}
	return errWithout
}

// Serve refuses.
func Serve(net.Listener, *http.Server, string, *slog.Logger) error { return errWithout }
