package spool_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/spool"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// block makes a block of n rows from row first on, whose values tell it apart.
func block(first uint64, n int, mark float32) *telemetry.Block {
	v := make([]float32, n)
	for i := range v {
		v[i] = mark + float32(i)/7
	}
	return &telemetry.Block{Stream: telemetry.Raw, First: first, RateHz: 10, Signals: []telemetry.Signal{{Name: "s", Values: v, Codec: telemetry.RawFloat}}}
}

func open(t interface{ Fatal(...any) }, d disk.FS, max int64) *spool.Spool {
	s, err := spool.Open(d, spool.Config{Dir: "spool", MaxBytes: max, SegmentBytes: 600})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// all reads every block that can be read.
func all(t interface{ Fatal(...any) }, s *spool.Spool) (seqs []uint64, blocks []telemetry.Block) {
	var after uint64
	for {
		seq, p, ok, err := s.Read(after)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return seqs, blocks
		}
		b, err := telemetry.Decode(p)
		if err != nil {
			t.Fatal(err)
		}
		seqs, blocks, after = append(seqs, seq), append(blocks, b), seq
	}
}

func TestBlocksAreReadInOrderAndOnlyAfterSync(t *testing.T) {
	d := &disk.Mem{}
	s := open(t, d, 1<<20)
	for i := range 20 {
		if err := s.Append(block(uint64(10*i), 10, float32(i)), uint64(10*i+10)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := all(t, s); len(got) != 0 {
		t.Errorf("blocks %v could be read before they were durable", got)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	seqs, blocks := all(t, s)
	if len(seqs) != 20 || seqs[0] != 1 || blocks[19].First != 190 || blocks[19].Boot != s.Boot() {
		t.Errorf("read %v", seqs)
	}
	for _, q := range seqs {
		if err := s.Ack(q); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Blocks != 0 || st.Dropped != 0 || st.NextRow != 200 || st.Bytes > 2000 {
		t.Errorf("after all acknowledgements %+v", st)
	}
}

func TestFullSpoolDropsTheOldestAndCountsThem(t *testing.T) {
	s := open(t, &disk.Mem{}, 4000)
	for i := range 100 {
		if err := s.Append(block(uint64(10*i), 10, float32(i)), uint64(10*i+10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	seqs, _ := all(t, s)
	st := s.Stats()
	if st.Bytes > 4000 || seqs[len(seqs)-1] != 100 || uint64(len(seqs))+st.Dropped != 100 || st.Dropped == 0 {
		t.Errorf("%+v, holds %v", st, seqs)
	}
}

func TestFullDiskCostsTheOldestBlocksNotTheNewest(t *testing.T) {
	d := &disk.Mem{}
	s := open(t, d, 1<<20)
	d.Limit(5000)
	for i := range 100 {
		if err := s.Append(block(uint64(10*i), 10, float32(i)), uint64(10*i+10)); err != nil && !errors.Is(err, disk.ErrFull) {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	seqs, _ := all(t, s)
	if st := s.Stats(); len(seqs) == 0 || seqs[len(seqs)-1] < 90 || st.Dropped == 0 || st.NextRow != 1000 {
		t.Errorf("%+v, holds %v", st, seqs)
	}
}

func TestDamagedSegmentCostsItsOwnBlocksOnly(t *testing.T) {
	d := &disk.Mem{}
	s := open(t, d, 1<<20)
	for i := range 30 {
		if err := s.Append(block(uint64(10*i), 10, float32(i)), uint64(10*i+10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := d.List("spool")
	if err != nil {
		t.Fatal(err)
	}
	name := "spool/" + names[2]
	b, err := disk.ReadFile(d, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := disk.WriteAtomic(d, name, b); err != nil {
		t.Fatal(err)
	}
	s = open(t, d, 1<<20)
	seqs, _ := all(t, s)
	st := s.Stats()
	if len(seqs) < 25 || uint64(len(seqs))+st.Dropped != 30 || seqs[len(seqs)-1] != 30 {
		t.Errorf("%+v, holds %v", st, seqs)
	}
}

// TestSpoolKeepsItsPromises runs random histories of appending, reading,
// acknowledging, restarting and losing power, and demands: what was read stays
// the same until acknowledged or dropped; a number that was read never names
// another block; what was durable outlives a power cut.
func TestSpoolKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &disk.Mem{}
		limit := int64(rapid.SampledFrom([]int{3000, 20_000, 1 << 20}).Draw(t, "limit"))
		s := open(t, d, limit)
		boot := s.Boot()
		row := uint64(0)
		seen := map[uint64]string{} // what a number was read as
		appended := 0
		look := func() {
			seqs, blocks := all(t, s)
			if !slices.IsSorted(seqs) {
				t.Fatalf("out of order: %v", seqs)
			}
			for i, q := range seqs {
				is := fmt.Sprint(blocks[i].First, blocks[i].Signals[0].Values)
				if was, ok := seen[q]; ok && was != is {
					t.Fatalf("block %d was %s and is %s", q, was, is)
				}
				seen[q] = is
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				n := rapid.IntRange(1, 30).Draw(t, "rows")
				if err := s.Append(block(row, n, float32(appended)), row+uint64(n)); err != nil {
					t.Fatal(err)
				}
				row += uint64(n)
				appended++
			},
			"sync": func(t *rapid.T) {
				if err := s.Sync(); err != nil {
					t.Fatal(err)
				}
			},
			"read": func(*rapid.T) { look() },
			"ack": func(t *rapid.T) {
				seqs, _ := all(t, s)
				if len(seqs) == 0 {
					return
				}
				q := rapid.SampledFrom(seqs).Draw(t, "seq")
				if err := s.Ack(q); err != nil {
					t.Fatal(err)
				}
				for _, left := range first(all(t, s)) {
					if left == q {
						t.Fatalf("block %d is read after its acknowledgement", q)
					}
				}
			},
			"restart": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, d, limit)
				if s.NextRow() != row {
					t.Fatalf("next row %d after a restart, want %d", s.NextRow(), row)
				}
			},
			"power cut": func(t *rapid.T) {
				look()
				before, _ := all(t, s)
				torn := rapid.IntRange(0, 200).Draw(t, "torn")
				d = d.Crash(func(_ string, n int) int { return min(torn, n) })
				s = open(t, d, limit)
				if s.Boot() != boot {
					t.Fatalf("boot changed from %d to %d", boot, s.Boot())
				}
				after, _ := all(t, s)
				for _, q := range before {
					if !slices.Contains(after, q) {
						t.Fatalf("block %d was durable and is gone: %v then %v", q, before, after)
					}
				}
				look()
				row = s.NextRow() // rows that were not durable are gone, and were never seen
			},
			"": func(t *rapid.T) {
				if st := s.Stats(); st.Bytes > limit+4000 {
					t.Fatalf("%d bytes are over %d", st.Bytes, limit)
				}
			},
		})
	})
}

func first(seqs []uint64, _ []telemetry.Block) []uint64 { return seqs }
