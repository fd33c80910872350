// Package calls owns the call table: which Call ID belongs to which endpoint
// of which control connection, what its public ID is, and which GRE
// translations follow from it.
//
// It is pure: values and a time.Time in, values out. Package conntrack talks to the
// kernel's conntrack.
package calls
