package packet

import "encoding/binary"

// adjust moves an Internet checksum from a 16-bit word's old value to its new
// one: RFC 1624 equation 3, HC' = ~(~HC + ~m + m').
//
// A sum over data that is not all zero folds to 1..0xffff, so a computed
// checksum is 0..0xfffe, and equation 3 stays in that range: the result is the
// very value a full computation gives. Only a received 0xffff, which verifies
// like 0 but is never computed, leaves as its equal 0.
func adjust(checksum, old, new uint16) uint16 {
	sum := uint32(^checksum) + uint32(^old) + uint32(new)
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}

// adjustField applies adjust to the checksum that stands at the start of field.
func adjustField(field []byte, old, new uint16) {
	binary.BigEndian.PutUint16(field, adjust(binary.BigEndian.Uint16(field), old, new))
}

// setWord writes a 16-bit word, and moves the checksum that covers it. The same word
// again changes nothing.
func setWord(word, checksum []byte, to uint16) {
	was := binary.BigEndian.Uint16(word)
	if was == to {
		return
	}
	adjustField(checksum, was, to)
	binary.BigEndian.PutUint16(word, to)
}

// sum adds up 16-bit words; a packet is too short for it to overflow.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// fold makes 16 bits of a sum, carries added.
func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s + s>>16)
}
