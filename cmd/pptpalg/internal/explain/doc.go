// Package explain owns the judgement why a client's calls do not work: from what the
// daemon saw and the kernel has, to the causes, the most likely one first. It asks
// nobody and reads no clock.
package explain
