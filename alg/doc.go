// Package alg owns the editing of control connections: one packet in, one outcome
// out. It keeps a record per control connection, finds the messages in both
// directions of its stream, lets the call table translate their Call IDs, and
// edits the packet in place.
//
// # Ignored connections
//
// The editor ignores a connection that NAT does not touch, that the kernel's own helper
// edits, or that does not speak PPTP: its packets pass unchanged. Outcome.Leave says when
// this is final. Then the editor needs no later segment of the connection, not even its
// end, and the caller may tell the kernel to queue none. Leave is true
//
//   - if the helper edits the connection: on the first segment;
//   - if it does not speak PPTP: on the segment that shows it;
//   - if NAT does not touch it: when both ends have sent data and neither is the gateway
//     itself. The editor reads the calls of such an end, and only a segment that this end
//     sends shows that it is the gateway.
//
// Leave is true once in the life of a connection. It is true again if segments other than
// a FIN still come a second later: then the kernel was not told, or has lost the entry with
// the mark. It is never true for a connection that is read, nor for one that Forsake gave
// up: the calls of that one end when conntrack sees its end. An ignored connection stays on
// record until an audit finds it gone, or a SYN/ACK shows that another connection has its
// tuple.
//
// # Connections of other gateways
//
// Gateways may share their calls, so that each can go on with those of another one that
// dies. Owned says which connections are this gateway's own. It follows the calls on all
// others, as it is told by Follow and Forget. It keeps them, their public IDs and their
// flows; no segment and no audit changes them, and a segment of theirs passes unchanged
// (Elsewhere). When a public address gets another owner, a Handover visits its connections.
//
// It is pure: bytes and a time.Time in, values out. The caller does what the outcome asks
// for (GRE translations in the kernel, the packet's verdict).
package alg
