// Package admin owns what the daemon tells others: metrics and health over HTTP
// for monitoring, and the call list over a unix socket for the operator's own
// commands. It also is the client of that socket.
package admin
