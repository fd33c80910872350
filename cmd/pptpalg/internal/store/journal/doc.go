// Package journal is the store in a file: it keeps, beyond the daemon's death, which calls
// there are and which public IDs rest. The kernel keeps the GRE entries, but it cannot tell
// which two of them are one call, nor on which control connection.
//
// The journal is a file in the state directory, usually a tmpfs: it lives as long as the
// kernel's table does. Records are appended before the kernel is changed and before the
// packet is released. If the disk does not answer, nothing waits for it longer than a
// moment. Whatever byte the writing stops at, all complete records before it count.
package journal
