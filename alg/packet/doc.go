// Package packet views IPv4, TCP and enhanced GRE (RFC 2637 section 4.1) packets in the
// bytes in which they arrived. It edits them in place and keeps their checksums right.
//
// A view is a small value over the caller's slice: making one costs a few length checks and
// no allocation, reading one cannot panic, and nothing is copied. An edit never computes a
// checksum from scratch, but adds its own difference (RFC 1624). So the receiver of a
// packet that arrived damaged still sees that it is damaged.
package packet
