package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcapgo"
)

// largest is the longest packet that is read, in bytes: tcpdump's own limit
// (MAXIMUM_SNAPLEN). A file that states more is broken.
const largest = 262144

// Magic numbers of the file formats, as their first bytes in the file.
var (
	magicGzip   = []byte{0x1f, 0x8b}
	magicPcapng = []byte{0x0a, 0x0d, 0x0d, 0x0a}
)

// pcapHeader is the length of pcap's file header, in bytes.
const pcapHeader = 24

// frame is one packet of a capture. Its bytes are valid until the next one is read.
type frame struct {
	gopacket.CaptureInfo
	link linkType
	data []byte
}

// file reads the packets of a capture.
type file struct {
	read func() (frame, error)
	n    int // packets read
}

// errShort says that a file ends where a packet or a header is not whole.
var errShort = errors.New("the file ends in the middle of it")

// ErrNoCapture says that a file does not begin as a capture does.
var ErrNoCapture = errors.New("it is not a capture: neither pcap nor pcapng")

// buffered is how many bytes are read at once.
const buffered = 1 << 16

// open begins a capture in pcap or pcapng, either of them packed by gzip or not.
func open(r io.Reader) (*file, error) {
	b := bufio.NewReaderSize(r, buffered)
	if magic, _ := b.Peek(len(magicGzip)); bytes.Equal(magic, magicGzip) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
		b = bufio.NewReaderSize(z, buffered)
	}
	magic, err := b.Peek(len(magicPcapng))
	if err != nil {
		return nil, fmt.Errorf("read file header: %w", short(err))
	}
	if bytes.Equal(magic, magicPcapng) {
		return openPcapng(b)
	}
	return openPcap(b)
}

func openPcap(b *bufio.Reader) (*file, error) {
	header, err := b.Peek(pcapHeader)
	if err != nil {
		return nil, fmt.Errorf("read file header: %w", short(err))
	}
	link := pcapLink(header)
	r, err := pcapgo.NewReader(b)
	if err != nil {
		return nil, ErrNoCapture // the library's error quotes the first bytes
	}
	// Programs write packets longer than the snap length that they state.
	r.SetSnaplen(largest)
	return &file{read: func() (frame, error) {
		data, ci, err := r.ZeroCopyReadPacketData()
		if err == io.EOF && ci.CaptureLength > 0 {
			err = io.ErrUnexpectedEOF // the packet's header is there, and no byte of it
		}
		return frame{ci, link, data}, err
	}}, nil
}

// pcapLink reads the link type from pcap's header, where gopacket has room for
// eight bits of it. The upper half of the field says other things.
func pcapLink(header []byte) linkType {
	field := header[20:24]
	if header[0] == 0xa1 { // the magic number's first byte, if big-endian
		return linkType(binary.BigEndian.Uint16(field[2:]))
	}
	return linkType(binary.LittleEndian.Uint16(field))
}

func openPcapng(b *bufio.Reader) (*file, error) {
	checked := &blocks{r: b}
	r, err := newNgReader(checked)
	if err != nil {
		return nil, fmt.Errorf("read file header: %w", short(err))
	}
	return &file{read: func() (frame, error) {
		// Its sibling without a copy takes as much memory as the snap length states.
		data, ci, err := r.ReadPacketData()
		if err != nil {
			return frame{}, checked.cause(err)
		}
		return frame{ci, checked.link(ci.InterfaceIndex), data}, nil
	}}, nil
}

func newNgReader(r io.Reader) (ng *pcapgo.NgReader, err error) {
	defer caught(&err)
	// With mixed link types allowed, each packet's interface tells its own.
	return pcapgo.NewNgReader(r, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
}

// next returns the next packet; io.EOF is the file's proper end. Any other error
// names the packet that it lies in, and is final.
func (f *file) next() (p frame, err error) {
	f.n++
	p, err = f.guarded()
	switch {
	case err == io.EOF:
		return frame{}, err
	case err != nil:
		return frame{}, f.wrap(short(err))
	case p.CaptureLength != len(p.data) || p.Length > math.MaxInt32:
		return frame{}, f.wrap(errors.New("its lengths contradict each other"))
	}
	return p, nil
}

func (f *file) wrap(err error) error { return fmt.Errorf("packet %d: %w", f.n, err) }

// guarded keeps a file that gopacket cannot stand from ending the program.
func (f *file) guarded() (p frame, err error) {
	defer caught(&err)
	return f.read()
}

func caught(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("broken file: %v", p)
	}
}

// short says in words that a file ends too early.
func short(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errShort
	}
	return err
}
