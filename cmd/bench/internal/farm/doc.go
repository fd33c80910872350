// Package farm owns a crowd of PPTP clients and their server, lean enough to show
// what lies between them: a client's dialogue is
//
//	connect, Start-Control-Connection-Request / Reply, Outgoing-Call-Request / Reply,
//
// upon which the call is held, or ended by
//
//	Call-Clear-Request, Call-Disconnect-Notify, close.
//
// Every call has a control connection of its own, as an ordinary client's has.
// Clients share Call IDs: the k-th call of each has the same.
package farm
