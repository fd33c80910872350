// Package stream owns where a TCP segment's bytes lie in a stream, which is one direction
// of a control connection: which bytes were seen before, which are new, and what editing
// made of the repeated ones.
//
// An edit is a function of connection, direction and sequence number. The call table
// changes while segments are under way, so a retransmission, however TCP merges or cuts it,
// is not translated again: it gets the same bytes as at first.
package stream
