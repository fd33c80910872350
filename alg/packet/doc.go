// Package packet views IPv4, TCP and enhanced GRE (RFC 2637 section 4.1) packets in the bytes they arrived in, and
// edits them in place with their checksums kept right.
//
// A view is a small value over the caller's slice: making one costs a few length
// checks and no allocation, reading one cannot panic, and nothing is copied.
// A checksum is never computed anew but moved by the edit's own difference (RFC
// 1624), so a packet that arrived damaged is still seen to be damaged by the one
// it is for.
package packet
