// Package sockets owns the question which process of this machine listens on a TCP port.
package sockets
