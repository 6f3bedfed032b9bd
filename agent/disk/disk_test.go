package disk_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent/disk"
)

// exercise is what every disk must do.
func exercise(t *testing.T, d disk.FS) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(d.MkdirAll("a/b"))
	ok(d.MkdirAll("a/b"))
	if _, err := d.Create("missing/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("create in a folder that is not there: %v", err)
	}
	f, err := d.Create("a/b/one")
	ok(err)
	_, err = f.Write([]byte("hello "))
	ok(err)
	_, err = f.Write([]byte("world"))
	ok(err)
	ok(f.Sync())
	ok(f.Truncate(8))
	p := make([]byte, 4)
	if n, err := f.ReadAt(p, 6); n != 2 || !errors.Is(err, io.EOF) || string(p[:n]) != "wo" {
		t.Errorf("read at 6: %q, %v", p[:n], err)
	}
	ok(f.Close())
	f, err = d.Append("a/b/one")
	ok(err)
	_, err = f.Write([]byte("!"))
	ok(err)
	ok(f.Close())
	if b, err := disk.ReadFile(d, "a/b/one", 100); err != nil || string(b) != "hello wo!" {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := disk.ReadFile(d, "a/b/one", 8); err == nil {
		t.Error("a file over its cap was read")
	}
	if n, err := d.Size("a/b/one"); n != 9 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	ok(disk.WriteAtomic(d, "a/two", []byte("2")))
	ok(disk.WriteAtomic(d, "a/two", []byte("two")))
	ok(d.Rename("a/b", "a/c"))
	ok(d.Rename("a/two", "a/three"))
	if names, err := d.List("a"); err != nil || !slices.Equal(names, []string{"c", "three"}) {
		t.Errorf("list %v, %v", names, err)
	}
	if there, err := disk.Exists(d, "a/c/one"); !there || err != nil {
		t.Errorf("exists %v, %v", there, err)
	}
	if there, err := disk.Exists(d, "a/b"); there || err != nil {
		t.Errorf("exists %v, %v", there, err)
	}
	if err := d.Remove("a/c"); err == nil {
		t.Error("a folder with a file in it was removed")
	}
	if err := d.Remove("a/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove what is not there: %v", err)
	}
	ok(d.SyncDir("a"))
	ok(d.RemoveAll("a/c"))
	ok(d.RemoveAll("a/c"))
	for _, outside := range []string{"../x", "/etc/passwd", "a/../../x"} {
		if f, err := d.Open(outside); err == nil {
			f.Close()
			t.Errorf("%s led outside", outside)
		}
	}
	if free, total, err := d.Free(); err != nil || free <= 0 || total < free {
		t.Errorf("free %d of %d, %v", free, total, err)
	}
}

func TestRealDisk(t *testing.T) {
	d, err := disk.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	exercise(t, d)
}

func TestDiskInMemory(t *testing.T) { exercise(t, &disk.Mem{}) }

func TestCrashKeepsOnlyWhatWasSynced(t *testing.T) {
	d := &disk.Mem{}
	create := func(name, content string, sync bool) disk.File {
		f, err := d.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	create("named", "kept", true)
	create("unsynced", "lost", false)
	if err := d.SyncDir("."); err != nil {
		t.Fatal(err)
	}
	create("nameless", "its folder was not synced", true)
	f, err := d.Append("named")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("tail")); err != nil {
		t.Fatal(err)
	}

	c := d.Crash(nil)
	names, err := c.List(".")
	if err != nil || !slices.Equal(names, []string{"named", "unsynced"}) {
		t.Errorf("names %v, %v", names, err)
	}
	if b, _ := disk.ReadFile(c, "named", 100); string(b) != "kept" {
		t.Errorf("named holds %q", b)
	}
	if b, _ := disk.ReadFile(c, "unsynced", 100); len(b) != 0 {
		t.Errorf("unsynced holds %q", b)
	}
	torn := d.Crash(func(_ string, n int) int { return n - 1 })
	if b, _ := disk.ReadFile(torn, "named", 100); string(b) != "kepttai" {
		t.Errorf("torn holds %q", b)
	}
}

// TestWriteAtomicIsAtomic cuts the power at each of its steps.
func TestWriteAtomicIsAtomic(t *testing.T) {
	for cut := 1; ; cut++ {
		d := &disk.Mem{}
		if err := disk.WriteAtomic(d, "file", []byte("old content")); err != nil {
			t.Fatal(err)
		}
		n := 0
		d.Fault(func(disk.Op, string) error {
			if n++; n == cut {
				return disk.ErrPowerCut
			}
			return nil
		})
		err := disk.WriteAtomic(d, "file", bytes.Repeat([]byte("new "), 10))
		b, readErr := disk.ReadFile(d.Crash(func(_ string, n int) int { return n / 2 }), "file", 100)
		if readErr != nil || string(b) != "old content" && string(b) != strings.Repeat("new ", 10) {
			t.Fatalf("cut at step %d: %q, %v", cut, b, readErr)
		}
		if err == nil {
			if cut < 5 {
				t.Errorf("it took %d steps: want create, write, sync, rename, syncdir", cut-1)
			}
			return
		}
	}
}

func TestFullDiskIsSaidPlainly(t *testing.T) {
	d := &disk.Mem{}
	d.Limit(10)
	f, err := d.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.Write(make([]byte, 11)); n != 10 || !errors.Is(err, disk.ErrFull) {
		t.Errorf("wrote %d, %v", n, err)
	}
}
