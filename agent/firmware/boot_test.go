package firmware_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/firmware"
	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/artifact"
)

var (
	one = firmware.Package{Digest: artifact.Of([]byte("package 1")), Version: "1"}
	two = firmware.Package{Digest: artifact.Of([]byte("package 2")), Version: "2"}
)

func boot(t *testing.T, d disk.FS, p firmware.Package) firmware.Start {
	t.Helper()
	s, err := firmware.Boot(d, p, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trying is a device whose slot b has a program on trial.
func trying(t *testing.T) *disk.Mem {
	t.Helper()
	d := &disk.Mem{}
	boot(t, d, one)
	program := []byte("program 2")
	state := `{"schema":1,"package":"` + string(one.Digest) + `","pair":{"good":"a","trying":true,"boots":3,"running":"a","images":{` +
		`"a":{"digest":"` + string(one.Digest) + `","counter":0,"version":"1"},` +
		`"b":{"name":"swell-agent","manifest":"` + string(artifact.Of([]byte("m"))) + `","digest":"` + string(artifact.Of(program)) + `","counter":1,"version":"2"}}}}`
	for _, err := range []error{d.MkdirAll("firmware/b"), disk.WriteAtomic(d, "firmware/b/program", program), disk.WriteAtomic(d, "firmware/slots.json", []byte(state))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestFreshDeviceRunsItsPackage(t *testing.T) {
	d := &disk.Mem{}
	for range 3 {
		if s := boot(t, d, one); s.Slot != slot.A || s.Program != "" || s.Image.Version != "1" {
			t.Errorf("starts %+v", s)
		}
	}
	slots, err := firmware.Open(d, slot.A)
	if err != nil {
		t.Fatal(err)
	}
	if f := slots.Fact(); f.Runs.Manifest != "" || f.GivenUp != "" {
		t.Errorf("the fact is %+v", f)
	}
}

func TestProgramWithoutALoaderHasNoSlots(t *testing.T) {
	if _, err := firmware.Open(&disk.Mem{}, slot.A); err == nil || !strings.Contains(err.Error(), "boot command") {
		t.Errorf("opened: %v", err)
	}
}

func TestTrialIsStartedAsOftenAsAllowedAndThenReported(t *testing.T) {
	d := trying(t)
	for i := range slot.MaxBoots {
		if s := boot(t, d, one); s.Slot != slot.B || s.Program != "firmware/b/program" {
			t.Fatalf("boot %d starts %+v", i, s)
		}
	}
	if s := boot(t, d, one); s.Slot != slot.A || s.Program != "" {
		t.Fatalf("after %d boots it starts %+v", slot.MaxBoots, s)
	}
	slots, err := firmware.Open(d, slot.A)
	if err != nil {
		t.Fatal(err)
	}
	if f := slots.Fact(); f.GivenUp != artifact.Of([]byte("m")) || !strings.Contains(f.Reason, "boots") {
		t.Errorf("the fact is %+v", f)
	}
}

func TestLoaderStartsTheCommittedProgramWhen(t *testing.T) {
	for name, spoil := range map[string]func(*disk.Mem) error{
		"the program on trial has rotted":  func(d *disk.Mem) error { return disk.WriteAtomic(d, "firmware/b/program", []byte("rot")) },
		"the program on trial is gone":     func(d *disk.Mem) error { return d.RemoveAll("firmware/b") },
		"the slots cannot be read":         func(d *disk.Mem) error { return disk.WriteAtomic(d, "firmware/slots.json", []byte("{")) },
		"the slots are of a later version": func(d *disk.Mem) error { return disk.WriteAtomic(d, "firmware/slots.json", []byte(`{"schema":2}`)) },
		"the disk takes no write": func(d *disk.Mem) error {
			d.Fault(func(disk.Op, string) error { return errors.New("read-only") })
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := trying(t)
			if err := spoil(d); err != nil {
				t.Fatal(err)
			}
			if s := boot(t, d, one); s.Slot != slot.A || s.Program != "" {
				t.Errorf("starts %+v", s)
			}
		})
	}
}

func TestNewPackageRunsWhateverTheSlotsHold(t *testing.T) {
	d := trying(t)
	if s := boot(t, d, two); s.Slot != slot.A || s.Program != "" || s.Image.Version != "2" {
		t.Errorf("starts %+v", s)
	}
	if s := boot(t, d, two); s.Program != "" {
		t.Errorf("and then %+v", s)
	}
}

func TestProgramTheSystemRefusesIsGivenUp(t *testing.T) {
	d := trying(t)
	s := boot(t, d, one)
	if err := firmware.GiveUp(d, s, one, errors.New("exec format error")); err != nil {
		t.Fatal(err)
	}
	if s = boot(t, d, one); s.Slot != slot.A {
		t.Errorf("starts %+v", s)
	}
}
