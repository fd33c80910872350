// Package history owns what the daemon saw, as values: control connections, messages, calls
// and oddities. It keeps the last ones of each client, and passes them to followers. Adding
// an event formats nothing and waits for nothing.
package history
