package replay

import "math/bits"

// ports are the ports that are in use, a bit for each, in pages: few have many in use.
type ports struct {
	pages [1 << 16 / pagePorts]*page
	used  int
}

const (
	pagePorts = 1024
	wordBits  = 64
)

// page is a run of ports.
type page [pagePorts / wordBits]uint64

// lowestPort is the lowest of those that are given instead of a connection's own.
const lowestPort = 1024

// pick returns the port itself if it is free, else the next one that is, else the port.
func (p *ports) pick(own uint16) uint16 {
	if !p.has(own) {
		return own
	}
	if port, ok := p.next(max(int(own)+1, lowestPort), 1<<16); ok {
		return port
	}
	if port, ok := p.next(lowestPort, int(own)); ok {
		return port
	}
	return own
}

// next returns the first free port from one on, and before another.
func (p *ports) next(from, before int) (uint16, bool) {
	for at := from; at < before; at = (at/wordBits + 1) * wordBits {
		word := uint64(0)
		if pg := p.pages[at/pagePorts]; pg != nil {
			word = pg[at%pagePorts/wordBits]
		}
		free := bits.TrailingZeros64(^(word | (1<<(at%wordBits) - 1)))
		if port := at/wordBits*wordBits + free; free < wordBits && port < before {
			return uint16(port), true
		}
	}
	return 0, false
}

func (p *ports) has(port uint16) bool {
	pg := p.pages[port/pagePorts]
	return pg != nil && pg[port%pagePorts/wordBits]>>(port%wordBits)&1 != 0
}

func (p *ports) set(port uint16) {
	if p.has(port) {
		return // it is shared
	}
	pg := &p.pages[port/pagePorts]
	if *pg == nil {
		*pg = new(page)
	}
	(*pg)[port%pagePorts/wordBits] |= 1 << (port % wordBits)
	p.used++
}

// clear frees a port, and reports whether none is in use any more.
func (p *ports) clear(port uint16) bool {
	if p.has(port) {
		p.pages[port/pagePorts][port%pagePorts/wordBits] &^= 1 << (port % wordBits)
		p.used--
	}
	return p.used == 0
}
