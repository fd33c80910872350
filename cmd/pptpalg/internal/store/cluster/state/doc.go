// Package state is what the shared store of a cluster holds, and what a gateway makes of it:
//
//	key, value   what stands where, and whether what was read is sound
//	Writer       what is written next, and under which guards (Owners, Batch, Breaker)
//	Mirror       what others have written: the difference to what is known
//
// It is pure: who asks has the time and does the work.
package state
