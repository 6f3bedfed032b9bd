// Package image reads and writes the file in which a release carries the
// agent's program to a device (format.md).
//
// The hub writes it when firmware is published; the agent reads it after the
// release's signature held, and copies the payload into its spare slot.
// Reading promises that a payload which was read to the end without an error
// has the length and the SHA-256 that the header names, and that no header can
// make a reader allocate more than a few kilobytes.
package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	"github.com/swellfleet/swell/protocol/artifact"
)

const (
	magic     = "SWELLIMG"
	version   = 1
	fixed     = 64 // bytes before the text fields
	maxHeader = 4096
	maxFields = 32
	// MaxPayload is the largest program, in bytes.
	MaxPayload = 1 << 30
)

// ErrFormat means the file is not an image, or a damaged one.
var ErrFormat = errors.New("not a firmware image, or a damaged one")

// Header describes an image.
type Header struct {
	Arch    string // GOARCH; required
	OS      string // GOOS; empty means linux
	Version string // of the program; required
	Counter uint64 // release counter; at least 1
	Size    int64  // of the payload, bytes; set by Write
	Digest  artifact.Digest
	// Other are text fields this version does not know, by name.
	Other map[string]string
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Write writes an image of program to w.
func Write(w io.Writer, h Header, program []byte) error {
	if h.Arch == "" || h.Version == "" || h.Counter == 0 {
		return errors.New("write image: arch, version and counter are required")
	}
	if len(program) == 0 || len(program) > MaxPayload {
		return fmt.Errorf("write image: program of %d bytes: want 1 to %d", len(program), MaxPayload)
	}
	fields := map[string]string{"arch": h.Arch, "version": h.Version}
	if h.OS != "" {
		fields["os"] = h.OS
	}
	for k, v := range h.Other {
		if _, taken := fields[k]; taken {
			return fmt.Errorf("write image: field %q is a known one", k)
		}
		fields[k] = v
	}
	var text []byte
	names := make([]string, 0, len(fields))
	for k := range fields {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		if k == "" || len(k) > 255 || len(fields[k]) > 1024 {
			return fmt.Errorf("write image: field %q is too long", k)
		}
		text = append(append(text, byte(len(k))), k...)
		text = append(binary.BigEndian.AppendUint16(text, uint16(len(fields[k]))), fields[k]...)
	}
	length := fixed + len(text) + 4
	if length > maxHeader {
		return fmt.Errorf("write image: header of %d bytes is over %d", length, maxHeader)
	}
	sum := sha256.Sum256(program)
	b := append([]byte(magic), 0, version)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = binary.BigEndian.AppendUint64(b, uint64(len(program)))
	b = append(b, sum[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Counter)
	b = binary.BigEndian.AppendUint32(b, uint32(len(fields)))
	b = append(b, text...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if _, err := w.Write(program); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// Read reads the header and returns the payload. The payload ends with an
// error instead of io.EOF when its bytes are not those the header names, or
// when something follows them.
func Read(r io.Reader) (Header, io.Reader, error) {
	b := make([]byte, fixed, maxHeader)
	if _, err := io.ReadFull(r, b); err != nil {
		return Header{}, nil, fmt.Errorf("read image header: %w", short(err))
	}
	if string(b[:8]) != magic {
		return Header{}, nil, fmt.Errorf("read image header: %w: it does not begin with %s", ErrFormat, magic)
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != version {
		return Header{}, nil, fmt.Errorf("read image header: format version %d: this program reads %d", v, version)
	}
	length := int(binary.BigEndian.Uint16(b[10:]))
	if length < fixed+4 || length > maxHeader {
		return Header{}, nil, fmt.Errorf("read image header: %w: header of %d bytes", ErrFormat, length)
	}
	b = b[:length]
	if _, err := io.ReadFull(r, b[fixed:]); err != nil {
		return Header{}, nil, fmt.Errorf("read image header: %w", short(err))
	}
	if crc32.Checksum(b[:length-4], castagnoli) != binary.BigEndian.Uint32(b[length-4:]) {
		return Header{}, nil, fmt.Errorf("read image header: %w: checksum differs", ErrFormat)
	}
	size := binary.BigEndian.Uint64(b[12:])
	if size == 0 || size > MaxPayload {
		return Header{}, nil, fmt.Errorf("read image header: %w: program of %d bytes", ErrFormat, size)
	}
	h := Header{Size: int64(size), Digest: artifact.FromSum([32]byte(b[20:52])), Counter: binary.BigEndian.Uint64(b[52:])}
	if err := h.fields(b[fixed:length-4], binary.BigEndian.Uint32(b[60:])); err != nil {
		return Header{}, nil, fmt.Errorf("read image header: %w", err)
	}
	return h, &payload{r: r, left: h.Size, want: [32]byte(b[20:52]), sum: sha256.New()}, nil
}

func (h *Header) fields(b []byte, n uint32) error {
	if n > maxFields {
		return fmt.Errorf("%w: %d text fields", ErrFormat, n)
	}
	seen := map[string]bool{}
	for range n {
		if len(b) < 1 || len(b) < 1+int(b[0])+2 {
			return fmt.Errorf("%w: text field cut short", ErrFormat)
		}
		name := string(b[1 : 1+b[0]])
		b = b[1+b[0]:]
		size := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+size {
			return fmt.Errorf("%w: text field %q cut short", ErrFormat, name)
		}
		value := string(b[2 : 2+size])
		b = b[2+size:]
		if name == "" || seen[name] {
			return fmt.Errorf("%w: text field %q empty or twice", ErrFormat, name)
		}
		seen[name] = true
		switch name {
		case "arch":
			h.Arch = value
		case "os":
			h.OS = value
		case "version":
			h.Version = value
		default:
			if h.Other == nil {
				h.Other = map[string]string{}
			}
			h.Other[name] = value
		}
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: %d bytes after the text fields", ErrFormat, len(b))
	}
	if h.Arch == "" || h.Version == "" || h.Counter == 0 {
		return fmt.Errorf("%w: arch, version or counter is missing", ErrFormat)
	}
	return nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", ErrFormat)
	}
	return err
}

// payload hands the program on and checks it at its end.
type payload struct {
	r    io.Reader
	left int64
	want [32]byte
	sum  hash.Hash
	done error // what every further Read returns
}

func (p *payload) Read(b []byte) (int, error) {
	if p.done != nil {
		return 0, p.done
	}
	if p.left == 0 {
		p.done = p.end()
		return 0, p.done
	}
	n, err := p.r.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	_, _ = p.sum.Write(b[:n]) // a hash never fails
	if err != nil && (p.left > 0 || !errors.Is(err, io.EOF)) {
		p.done = fmt.Errorf("read image: %w", short(err))
		return n, p.done
	}
	return n, nil
}

func (p *payload) end() error {
	if got := p.sum.Sum(nil); !bytes.Equal(got, p.want[:]) {
		return fmt.Errorf("read image: %w: the program's SHA-256 is not the header's", ErrFormat)
	}
	if n, err := io.ReadFull(p.r, make([]byte, 1)); n > 0 {
		return fmt.Errorf("read image: %w: bytes after the program", ErrFormat)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read image: %w", err)
	}
	return io.EOF
}
