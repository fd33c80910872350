// Package history owns what the daemon saw, as values: control connections, messages,
// calls and oddities. It keeps the last ones of each client, and hands them on to those
// who listen. Adding an event formats nothing and waits for nobody.
package history
