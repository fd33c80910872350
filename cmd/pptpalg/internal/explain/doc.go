// Package explain finds out why a client's calls do not work: from what the daemon saw and
// the kernel has, to the causes, the most likely one first. It is pure, and reads no clock.
package explain
