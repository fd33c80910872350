// Package pptp owns the layout of the control messages of RFC 2637. One table says for each
// type how long it is and where its Call IDs and its result code lie. A Message tells
// whether bytes begin such a message, and reads its fields.
package pptp
