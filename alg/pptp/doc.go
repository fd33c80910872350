// Package pptp owns the layout of the control messages of RFC 2637: one table
// says for each type how long it is and where its Call IDs and its result code
// lie; a Header tells whether bytes begin such a message.
package pptp
