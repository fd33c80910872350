// Package stream owns where a TCP segment's bytes lie in a control stream: which
// were seen before, which are fresh, and what earlier editing made of those that
// come again.
//
// An edit is a function of connection, direction and sequence number. The call
// table changes while segments are under way, so a retransmission, however it is
// merged or cut, is not translated anew: it gets the very bytes it got at first.
package stream
