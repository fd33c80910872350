// Package sockets owns the question which process of this machine listens on a TCP port, and the
// words for addresses that cannot be used.
package sockets
