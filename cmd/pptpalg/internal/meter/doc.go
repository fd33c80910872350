// Package meter owns what calls carry over time: which of them carry one way only or nothing
// at all, and how many calls and how much GRE there were in the last hour.
//
// A count alone does not tell that a call has stopped carrying one way. So the meter looks at
// all counts every few seconds, more often while a call is in doubt, and not at all while there
// are no calls.
package meter
