package replay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// writer writes packets as pcap with times in nanoseconds.
type writer struct {
	w    io.Writer
	pcap *pcapgo.Writer // nil before the first packet
	link linkType       // of the first packet, and so of the file
}

func (w *writer) write(p frame) error {
	if w.pcap == nil {
		if err := w.header(p.link); err != nil {
			return fmt.Errorf("write file header: %w", err)
		}
	}
	if p.link != w.link {
		return fmt.Errorf("write: a pcap file has one link type: %v does not go with %v", p.link, w.link)
	}
	if err := w.pcap.WritePacket(p.CaptureInfo, p.data[:p.CaptureLength]); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// header writes the file's header. gopacket's link type has eight bits, so the
// field is written over.
func (w *writer) header(link linkType) error {
	var b bytes.Buffer
	w.pcap, w.link = pcapgo.NewWriterNanos(&b), link
	if err := w.pcap.WriteFileHeader(largest, layers.LinkTypeNull); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b.Bytes()[20:], uint32(link))
	_, err := w.w.Write(b.Bytes())
	w.pcap = pcapgo.NewWriterNanos(w.w)
	return err
}

// finish makes a file of one to which no packet was written.
func (w *writer) finish() error {
	if w.pcap != nil {
		return nil
	}
	if err := w.header(linkEthernet); err != nil {
		return fmt.Errorf("write file header: %w", err)
	}
	return nil
}
