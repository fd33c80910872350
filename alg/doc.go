// Package alg owns the editing of control connections: one packet in, one outcome
// out. It keeps a record per control connection, finds the messages in both
// directions of its stream, lets the call table translate their Call IDs, and
// edits the packet in place.
//
// # Connections let alone
//
// A connection that NAT does not touch, that the kernel's own helper edits, or that does
// not speak PPTP passes as it is. Outcome.Leave says so once it is for good: no later
// segment of the connection need come here, not even its end, and the caller may have
// the kernel queue none. It is true
//
//   - where the helper edits: on the first segment;
//   - where PPTP is not spoken: on the segment that shows it;
//   - where NAT does not touch it: when both ends have sent data and neither is the
//     gateway itself. The calls of such an end are read, and only a segment of
//     its own shows what it is.
//
// It is said once in the life of a connection, and again if a second later segments
// still come that are no FIN: then the kernel was not told, or has lost its entry and with
// it what it was told. It is never said of a connection that is read, nor of one that
// Forsake gave up: the calls of that one end when conntrack sees its end. A connection that is left
// stays on record until a Comparison finds it gone, or a SYN/ACK shows that another one
// has its tuple.
//
// It is pure: bytes and a time.Time in, values out. What the outcome asks for
// (GRE translations in the kernel, the packet's verdict) the caller does.
package alg
