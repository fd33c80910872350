// Package record is how the stores write calls down: as bytes that tell what they are, how
// long they are, and whether they are whole.
//
//	kind     1 byte
//	length   1 byte, of the payload
//	payload
//	checksum 4 bytes, CRC-32C of all before it
//
// Numbers are big-endian.
package record
