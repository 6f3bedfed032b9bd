package spool_test

import (
	"testing"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/spool"
)

// FuzzSegment opens a spool in which one segment holds anything, and demands
// that it still works afterwards.
func FuzzSegment(f *testing.F) {
	d := &disk.Mem{}
	s, err := spool.Open(d, spool.Config{Dir: "spool"})
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		if err := s.Append(block(uint64(10*i), 10, float32(i)), uint64(10*i+10)); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := disk.ReadFile(d, "spool/00000000000000000001.seg", 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-7])
	f.Add(whole[:20])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &disk.Mem{}
		if err := d.MkdirAll("spool"); err != nil {
			t.Fatal(err)
		}
		if err := disk.WriteAtomic(d, "spool/00000000000000000001.seg", b); err != nil {
			t.Fatal(err)
		}
		s, err := spool.Open(d, spool.Config{Dir: "spool", MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		next := s.NextRow()
		if err := s.Append(block(next, 5, 1), next+5); err != nil && next < 1<<62 {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		var after uint64
		for range 1000 {
			seq, _, ok, err := s.Read(after)
			if err == nil && !ok {
				return
			}
			if err == nil {
				after = seq
			}
		}
	})
}
