// Package gre views the enhanced GRE header, version 1, in which PPTP carries its
// calls (RFC 2637 section 4.1).
//
// The view is a small value over the caller's bytes; reading it cannot panic.
// It exists because gopacket's GRE decoder indexes its input unchecked (layers/gre.go,
// DecodeFromBytes, v1.1.19) and so panics on a short packet, which here would be
// any host's to send.
package gre
