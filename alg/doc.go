// Package alg owns the editing of control connections: one packet in, one outcome
// out. It keeps a record per control connection, finds the messages in both
// directions of its stream, lets the call table translate their Call IDs, and
// edits the packet in place.
//
// It is pure: bytes and a time.Time in, values out. What the outcome asks for
// (GRE translations in the kernel, the packet's verdict) the caller does.
package alg
