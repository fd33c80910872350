// Package admin owns the daemon's interfaces: metrics and health over HTTP for monitoring,
// and the call list over a unix socket for the operator's commands. It also has the client
// of that socket.
package admin
