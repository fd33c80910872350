// Package journal owns what the daemon remembers over its own death: which calls
// there are, and which public Call IDs rest. The kernel keeps the GRE entries, but
// it cannot tell which two of them are one call, nor on which control connection.
//
// The journal is a file in the state directory, a tmpfs as a rule: it lives as
// long as the kernel's table does. Records are appended before the kernel is
// changed and before the packet is let go, unless the disk does not answer: nobody
// waits for that longer than a moment. Whatever byte the writing stops
// at, all whole records before it count.
package journal
