//go:build !noweb

package webconfig

import (
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/exporter-toolkit/web"
)

// Validate says what is wrong with a file, nil for "".
func Validate(file string) error { return web.Validate(file) }

// Serve serves as a file says, which it reads again for each connection.
func Serve(l net.Listener, srv *http.Server, file string, log *slog.Logger) error {
	return web.Serve(l, srv, &web.FlagConfig{WebConfigFile: &file}, log)
}
