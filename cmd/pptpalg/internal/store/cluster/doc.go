// Package cluster is the store of a gateway that shares its calls with others: a store of its
// own, the journal, and the shared store of the cluster.
//
//	Append ─► journal ─► Writer ─► transaction ─► the shared store
//	                                                  │ watch
//	Config.Apply ◄─ Mirror ◄──────────────────────────┘
//
// Only calls that NAT translates, below public addresses that this gateway owns, go to the
// shared store. A packet waits until the store has what the packet has done to a call, for
// Config.Wait at the most. If the store fails, nothing waits: calls go on by the journal, and
// what the store lacks is written when it answers again.
package cluster
