// Package spool keeps telemetry blocks, or pictures, on disk until the hub has
// them.
//
// The parties are the agent's recorder, which appends blocks, and agent/frames,
// which puts pictures into a spool of its own; the delivery loop, which reads them in order and acknowledges each when the hub's broker
// has; and the next start of the agent, which finds what was left. It promises:
// a block that Read returned is on disk and stays there until Ack, unless the
// spool is full; when it is full the oldest blocks go first and are counted; a
// torn tail costs the blocks in it and nothing else; sequence numbers and row
// indices are never used twice for different delivered data.
//
// Blocks appended since the last Sync may be lost in a power cut. They were
// never readable, so nobody has seen the numbers they carried.
//
// # Format
//
// Segments are named by twenty digits, rising. A segment begins with a header
// of 36 bytes: the magic "SWSPOOL1", then boot, next sequence number and next
// row (u64 each), then the CRC-32C of those (u32). Records follow: length of
// the payload (u32), CRC-32C of everything after it in the record (u32),
// sequence number (u64), next row after this block (u64), payload. All numbers
// are little-endian. The file "cursor" holds the lowest sequence number not
// acknowledged, and its CRC; it may lag behind.
package spool

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// Config bounds a spool.
type Config struct {
	Dir          string // folder on the disk; required
	MaxBytes     int64  // of all segments; 0 means 256 MiB
	SegmentBytes int64  // a segment is closed beyond this; 0 means MaxBytes/32, at least 64 KiB
}

// Stats describe what a spool holds and lost since it was opened.
type Stats struct {
	Blocks  int    // waiting for acknowledgement
	Bytes   int64  // on disk, including acknowledged blocks of open segments
	Dropped uint64 // blocks lost: too old for a full spool, unreadable, or not writable
	NextRow uint64 // index that the next row of the raw stream gets
	NextSeq uint64 // number that the next block gets
}

// Spool is a queue of blocks on disk. Its methods may be called from any
// goroutine.
type Spool struct {
	disk   disk.FS
	config Config
	ready  chan struct{} // has one token when blocks may be readable

	syncing sync.Mutex // held while files are synced, before mu

	mu       sync.Mutex
	boot     uint64
	nextSeq  uint64
	nextRow  uint64
	synced   uint64 // blocks below this sequence number are durable
	segments []*segment
	active   disk.File   // file of the last segment
	unsynced []disk.File // closed segments that still need Sync and Close
	number   uint64      // of the last segment
	bytes    int64
	waiting  int
	dropped  uint64
	acks     int // since the cursor was saved
	reader   struct {
		name string
		file disk.File
	}
}

type segment struct {
	name    string
	bytes   int64
	entries []entry
	waiting int // entries not acknowledged
}

type entry struct {
	seq    uint64
	offset int64 // of the payload
	length int
	acked  bool
}

const (
	magic        = "SWSPOOL1"
	headerLen    = len(magic) + 3*8 + 4
	recordLen    = 4 + 4 + 8 + 8
	suffix       = ".seg"
	cursorEvery  = 256 // acknowledgements between saves of the cursor
	maxBlockLen  = telemetry.MaxBytes
	defaultBytes = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Open finds what an earlier run left, or begins anew.
func Open(d disk.FS, c Config) (*Spool, error) {
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultBytes
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = max(c.MaxBytes/32, 64<<10)
	}
	s := &Spool{disk: d, config: c, ready: make(chan struct{}, 1), nextSeq: 1}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	if err := s.roll(); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s.wake()
	return s, nil
}

func (s *Spool) recover() error {
	if err := s.disk.MkdirAll(s.config.Dir); err != nil {
		return err
	}
	names, err := s.disk.List(s.config.Dir)
	if err != nil {
		return err
	}
	cursor := s.loadCursor()
	for _, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(name, suffix), 10, 64)
		if err != nil || !strings.HasSuffix(name, suffix) {
			continue
		}
		s.number = max(s.number, number)
		g, err := s.scan(path.Join(s.config.Dir, name), cursor)
		if err != nil {
			return err
		}
		if g.waiting == 0 {
			// Its numbers live on in the header of the segment that roll is
			// about to begin; only then may it go.
			g.entries = nil
		}
		s.segments = append(s.segments, g)
		s.bytes += g.bytes
		s.waiting += g.waiting
	}
	if s.boot == 0 {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		s.boot = binary.LittleEndian.Uint64(b[:]) | 1
	}
	s.nextSeq = max(s.nextSeq, cursor)
	s.synced = s.nextSeq
	return nil
}

// scan reads one segment up to its end or to the first thing that does not
// hold. A segment with a bad header is kept empty, to be removed.
func (s *Spool) scan(name string, cursor uint64) (*segment, error) {
	b, err := disk.ReadFile(s.disk, name, s.config.MaxBytes+s.config.SegmentBytes+maxBlockLen)
	if err != nil {
		return nil, err
	}
	g := &segment{name: name, bytes: int64(len(b))}
	if len(b) < headerLen || string(b[:len(magic)]) != magic || crc(b[:headerLen-4]) != binary.LittleEndian.Uint32(b[headerLen-4:]) {
		return g, nil
	}
	boot := binary.LittleEndian.Uint64(b[8:])
	if s.boot != 0 && boot != s.boot {
		return g, nil // another installation's leftovers
	}
	s.boot = boot
	if next := binary.LittleEndian.Uint64(b[16:]); next > s.nextSeq {
		// Blocks between the last one that could be read and the ones of this
		// segment are gone, unless they had been acknowledged.
		if from := max(s.nextSeq, cursor); from < next && s.nextSeq > 1 {
			s.dropped += next - from
		}
		s.nextSeq = next
	}
	s.nextRow = max(s.nextRow, binary.LittleEndian.Uint64(b[24:]))
	for at := headerLen; at+recordLen <= len(b); {
		n := int(binary.LittleEndian.Uint32(b[at:]))
		if n > maxBlockLen || at+recordLen+n > len(b) || crc(b[at+8:at+recordLen+n]) != binary.LittleEndian.Uint32(b[at+4:]) {
			break
		}
		seq := binary.LittleEndian.Uint64(b[at+8:])
		if k := len(g.entries); k > 0 && seq != g.entries[k-1].seq+1 {
			break // Ack counts on it
		}
		s.nextRow = max(s.nextRow, binary.LittleEndian.Uint64(b[at+16:]))
		s.nextSeq = max(s.nextSeq, seq+1)
		e := entry{seq: seq, offset: int64(at + recordLen), length: n, acked: seq < cursor}
		if !e.acked {
			g.waiting++
		}
		g.entries = append(g.entries, e)
		at += recordLen + n
	}
	return g, nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func (s *Spool) cursorName() string { return path.Join(s.config.Dir, "cursor") }

// loadCursor returns 0 where there is none that holds: then everything is sent
// again, and the hub drops what it has.
func (s *Spool) loadCursor() uint64 {
	b, err := disk.ReadFile(s.disk, s.cursorName(), 12)
	if err != nil || len(b) != 12 || crc(b[:8]) != binary.LittleEndian.Uint32(b[8:]) {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func (s *Spool) saveCursor() error {
	low := s.nextSeq
find:
	for _, g := range s.segments {
		for _, e := range g.entries {
			if !e.acked {
				low = e.seq
				break find
			}
		}
	}
	if low > s.synced {
		low = s.synced
	}
	b := binary.LittleEndian.AppendUint64(nil, low)
	b = binary.LittleEndian.AppendUint32(b, crc(b))
	s.acks = 0
	return disk.WriteAtomic(s.disk, s.cursorName(), b)
}

// roll begins a new segment, which carries the counters, and removes those
// before it that hold nothing any more.
func (s *Spool) roll() error {
	g := &segment{name: path.Join(s.config.Dir, fmt.Sprintf("%020d%s", s.number+1, suffix)), bytes: int64(headerLen)}
	h := append(make([]byte, 0, headerLen), magic...)
	h = binary.LittleEndian.AppendUint64(h, s.boot)
	h = binary.LittleEndian.AppendUint64(h, s.nextSeq)
	h = binary.LittleEndian.AppendUint64(h, s.nextRow)
	h = binary.LittleEndian.AppendUint32(h, crc(h))
	f, err := s.disk.Create(g.name)
	if err != nil {
		return err
	}
	if _, err = f.Write(h); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.disk.SyncDir(s.config.Dir)
	}
	if err != nil {
		return errors.Join(err, f.Close(), s.disk.RemoveAll(g.name))
	}
	if s.active != nil {
		s.unsynced = append(s.unsynced, s.active)
	}
	s.number++
	s.active = f
	s.segments = append(s.segments, g)
	s.bytes += g.bytes
	return s.clean()
}

// clean removes segments without waiting blocks, but never the last one.
func (s *Spool) clean() error {
	var errs []error
	kept := s.segments[:0]
	for i, g := range s.segments {
		if g.waiting > 0 || i == len(s.segments)-1 {
			kept = append(kept, g)
			continue
		}
		errs = append(errs, s.remove(g))
	}
	s.segments = kept
	return errors.Join(errs...)
}

func (s *Spool) remove(g *segment) error {
	if s.reader.name == g.name {
		s.reader.file.Close()
		s.reader.name, s.reader.file = "", nil
	}
	s.bytes -= g.bytes
	s.waiting -= g.waiting
	if err := s.disk.Remove(g.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Boot is the random number of this installation, never 0.
func (s *Spool) Boot() uint64 { return s.boot }

// NextRow is the index the next row of the raw stream gets.
func (s *Spool) NextRow() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nextRow
}

// Append gives b its Boot and Seq and writes it; after the next Sync it can be
// read. nextRow is the index after the last raw row that b covers. An error
// means that b is lost, and counted.
func (s *Spool) Append(b *telemetry.Block, nextRow uint64) error {
	return s.Put(func(dst []byte, boot, seq uint64) ([]byte, error) {
		b.Boot, b.Seq = boot, seq
		return b.Append(dst)
	}, nextRow)
}

// Put is Append for messages of other kinds: encode appends the message with
// its numbers to dst, and must not use the spool.
func (s *Spool) Put(encode func(dst []byte, boot, seq uint64) ([]byte, error), nextRow uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq := s.nextSeq
	s.nextRow = max(s.nextRow, nextRow)
	record, err := encode(make([]byte, recordLen, 4096), s.boot, seq)
	if err != nil {
		s.dropped++
		return fmt.Errorf("spool block: %w", err)
	}
	n := len(record) - recordLen
	binary.LittleEndian.PutUint32(record, uint32(n))
	binary.LittleEndian.PutUint64(record[8:], seq)
	binary.LittleEndian.PutUint64(record[16:], s.nextRow)
	binary.LittleEndian.PutUint32(record[4:], crc(record[8:]))
	if err := s.write(record, seq); err != nil {
		s.dropped++
		return fmt.Errorf("spool block %d: %w", seq, err)
	}
	s.nextSeq++
	s.waiting++
	return nil
}

func (s *Spool) write(record []byte, seq uint64) error {
	if int64(len(record)) > s.config.MaxBytes {
		return fmt.Errorf("%d bytes are over the spool's %d", len(record), s.config.MaxBytes)
	}
	for s.bytes+int64(len(record)) > s.config.MaxBytes && s.dropOldest() {
	}
	if g := s.segments[len(s.segments)-1]; g.bytes > s.config.SegmentBytes {
		if err := s.roll(); err != nil {
			return err
		}
	}
	for {
		g := s.segments[len(s.segments)-1]
		n, err := s.active.Write(record)
		if err == nil {
			g.entries = append(g.entries, entry{seq: seq, offset: g.bytes + int64(recordLen), length: len(record) - recordLen})
			g.waiting++
			g.bytes += int64(len(record))
			s.bytes += int64(len(record))
			return nil
		}
		if n > 0 {
			// A torn record in the middle would hide every one after it.
			if cut := s.active.Truncate(g.bytes); cut != nil {
				return errors.Join(err, cut)
			}
		}
		if !errors.Is(err, disk.ErrFull) || !s.dropOldest() {
			return err
		}
	}
}

// dropOldest removes the oldest segment, if it is not the only one with blocks
// in it that are being written.
func (s *Spool) dropOldest() bool {
	if len(s.segments) == 1 {
		if len(s.segments[0].entries) == 0 || s.roll() != nil {
			return false
		}
		if len(s.segments) == 1 {
			return true // rolling found it all acknowledged
		}
	}
	g := s.segments[0]
	s.segments = s.segments[1:]
	s.dropped += uint64(g.waiting)
	return s.remove(g) == nil
}

// Sync makes everything appended so far durable and readable.
func (s *Spool) Sync() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	closed, active, upTo := s.unsynced, s.active, s.nextSeq
	if s.synced == upTo || active == nil {
		s.mu.Unlock()
		return nil
	}
	s.unsynced = nil
	s.mu.Unlock()

	var failed []disk.File
	var errs []error
	for _, f := range closed {
		err := f.Sync()
		if err != nil {
			failed = append(failed, f)
		} else {
			err = f.Close()
		}
		errs = append(errs, err)
	}
	errs = append(errs, active.Sync())

	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsynced = append(failed, s.unsynced...)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	s.synced = upTo
	s.wake()
	return nil
}

func (s *Spool) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Ready has a token whenever Read may find more than before.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Read returns the first durable, unacknowledged block with a sequence number
// above after, as encoded. ok is false when there is none yet.
func (s *Spool) Read(after uint64) (seq uint64, payload []byte, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		if n := len(g.entries); n == 0 || g.waiting == 0 || g.entries[n-1].seq <= after {
			continue
		}
		for i := range g.entries {
			e := &g.entries[i]
			if e.seq <= after || e.acked {
				continue
			}
			if e.seq >= s.synced {
				return 0, nil, false, nil
			}
			p, err := s.load(g, *e)
			if err != nil {
				// What cannot be read any more is given up, or it would stand
				// before all that follows.
				s.settle(g, e)
				s.dropped++
				return 0, nil, false, fmt.Errorf("read spool block %d: %w", e.seq, err)
			}
			return e.seq, p, true, nil
		}
	}
	return 0, nil, false, nil
}

func (s *Spool) load(g *segment, e entry) ([]byte, error) {
	if s.reader.name != g.name {
		f, err := s.disk.Open(g.name)
		if err != nil {
			return nil, err
		}
		if s.reader.file != nil {
			s.reader.file.Close()
		}
		s.reader.name, s.reader.file = g.name, f
	}
	record := make([]byte, recordLen+e.length)
	if _, err := s.reader.file.ReadAt(record, e.offset-int64(recordLen)); err != nil {
		return nil, err
	}
	if crc(record[8:]) != binary.LittleEndian.Uint32(record[4:]) {
		return nil, errors.New("its checksum does not hold")
	}
	return record[recordLen:], nil
}

// Ack says that the hub has block seq; it will not be read again. Blocks may be
// acknowledged in any order, and more than once.
func (s *Spool) Ack(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		if n := len(g.entries); n == 0 || g.entries[n-1].seq < seq || g.entries[0].seq > seq {
			continue
		}
		// Sequence numbers in a segment rise by one.
		e := &g.entries[seq-g.entries[0].seq]
		if e.acked {
			return nil
		}
		s.settle(g, e)
		if s.acks++; s.acks >= cursorEvery {
			if err := s.saveCursor(); err != nil {
				return fmt.Errorf("save spool cursor: %w", err)
			}
		}
		if g.waiting == 0 {
			if err := s.clean(); err != nil {
				return fmt.Errorf("clean spool: %w", err)
			}
		}
		return nil
	}
	return nil
}

func (s *Spool) settle(g *segment, e *entry) {
	e.acked = true
	g.waiting--
	s.waiting--
}

// Stats tells what the spool holds.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Blocks: s.waiting, Bytes: s.bytes, Dropped: s.dropped, NextRow: s.nextRow, NextSeq: s.nextSeq}
}

// Close syncs, saves the cursor and closes the files.
func (s *Spool) Close() error {
	err := s.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return err
	}
	err = errors.Join(err, s.saveCursor())
	for _, f := range append(s.unsynced, s.active, s.reader.file) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	s.active, s.unsynced, s.reader.file, s.reader.name = nil, nil, nil, ""
	return err
}
