package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/source"
)

// grey is a picture of one brightness.
func grey(t testing.TB, level byte) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 20, 10))
	for i := range m.Pix {
		m.Pix[i] = level
	}
	m.SetGray(0, 0, color.Gray{Y: level / 2})
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// put writes a file that is so old.
func put(t testing.TB, dir, name string, content []byte, age time.Duration) {
	t.Helper()
	path := filepath.Join(dir, name)
	at := time.Now().Add(-age)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644), os.Chtimes(path, at, at)); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, c Config, d disk.FS, log io.Writer) *Source {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s := New(c, Device{Disk: d, Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now})
	s.poll = time.Millisecond
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// brightness of the next n pictures, 0 to 255.
func levels(t testing.TB, s *Source, n int) (out []int) {
	t.Helper()
	for i := range n {
		rows, err := s.Next(t.Context())
		if err != nil {
			t.Fatalf("picture %d: %v", i, err)
		}
		if rows.Len() != 1 || len(rows.Frames) != 1 || len(rows.Pictures) != 1 || rows.First != s.row-1 {
			t.Fatalf("rows %+v", rows)
		}
		if rows.Pictures[0].Width != 20 || rows.Pictures[0].Height != 10 {
			t.Fatalf("a picture of %d by %d", rows.Pictures[0].Width, rows.Pictures[0].Height)
		}
		out = append(out, int(rows.Values[0][0]*255+0.5))
	}
	return out
}

// nothing fails when another picture comes.
func nothing(t testing.TB, s *Source) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if rows, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a picture came: %d rows, %v", rows.Len(), err)
	}
}

func TestAFolderIsPlayedInTheOrderOfNames(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "b.jpg", grey(t, 20), 0)
	put(t, dir, "a.JPG", grey(t, 10), 0)
	put(t, dir, "c/d.jpeg", grey(t, 30), 0)
	put(t, dir, "notes.txt", []byte("no picture"), 0)
	put(t, dir, ".hidden.jpg", grey(t, 90), 0)
	put(t, dir, ".trash/e.jpg", grey(t, 90), 0)
	s := open(t, Config{Dir: dir, RateHz: -1}, nil, io.Discard)
	if err := source.CheckChannels(s.Channels()); err != nil {
		t.Error(err)
	}
	if got := levels(t, s, 3); !slices.Equal(got, []int{10, 20, 30}) {
		t.Errorf("brightness %v", got)
	}
	if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v", err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	loop := open(t, Config{Dir: dir, RateHz: -1, Loop: true}, nil, io.Discard)
	if got := levels(t, loop, 7); !slices.Equal(got, []int{10, 20, 30, 10, 20, 30, 10}) {
		t.Errorf("brightness %v", got)
	}
}

func TestPicturesThatCannotBeReadAreSkippedNamedAndCounted(t *testing.T) {
	dir, log := t.TempDir(), &bytes.Buffer{}
	whole := grey(t, 77)
	put(t, dir, "1.jpg", whole[:len(whole)/2], time.Hour)
	put(t, dir, "2.jpg", nil, time.Hour)
	put(t, dir, "3.jpg", whole, time.Hour)
	put(t, dir, "4.png", []byte("\x89PNG\r\n\x1a\nnot really"), time.Hour)
	for _, watch := range []bool{false, true} {
		log.Reset()
		c := Config{Dir: dir, RateHz: -1, Loop: true}
		if watch {
			c = Config{Dir: dir, Watch: true}
		}
		s := open(t, c, &disk.Mem{}, log)
		levels(t, s, 1)
		if !watch {
			levels(t, s, 3) // the next rounds count nothing twice
		} else {
			nothing(t, s)
		}
		n, err := s.Unreadable()
		if n != 3 || err == nil || !strings.Contains(err.Error(), "4.png") {
			t.Errorf("watch %v: %d unreadable, the newest: %v", watch, n, err)
		}
		for _, name := range []string{"1.jpg", "2.jpg", "4.png"} {
			if strings.Count(log.String(), filepath.Join(dir, name)) != 1 {
				t.Errorf("watch %v: %s is not named once in the log:\n%s", watch, name, log)
			}
		}
	}
}

func TestAFolderWithNothingToPlayIsExplained(t *testing.T) {
	dir := t.TempDir()
	s := New(Config{Dir: dir}, Device{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err := s.Open(t.Context()); err == nil || !strings.Contains(err.Error(), ".jpg") {
		t.Errorf("an empty folder: %v", err)
	}
	s = New(Config{Dir: dir + "/missing", Watch: true}, Device{Disk: &disk.Mem{}, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err := s.Open(t.Context()); err == nil {
		t.Error("a missing folder was opened")
	}
	put(t, dir, "1.jpg", []byte("broken"), time.Hour)
	s = open(t, Config{Dir: dir, Loop: true, RateHz: -1}, nil, io.Discard)
	if _, err := s.Next(t.Context()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a loop over broken pictures: %v", err)
	}
}

func TestAWatchedFolderGivesTheOldestFirstAndNothingTwice(t *testing.T) {
	dir, d := t.TempDir(), &disk.Mem{}
	put(t, dir, "new.jpg", grey(t, 30), time.Hour)
	put(t, dir, "old.jpg", grey(t, 10), 3*time.Hour)
	put(t, dir, "mid.jpg", grey(t, 20), 2*time.Hour)
	s := open(t, Config{Dir: dir, Watch: true}, d, io.Discard)
	rows, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(time.Unix(0, rows.Times[0])); age < 3*time.Hour-time.Minute || age > 3*time.Hour+time.Minute {
		t.Errorf("a picture of three hours ago is stamped as one of %v ago", age)
	}
	if got := levels(t, s, 2); !slices.Equal(got, []int{20, 30}) {
		t.Errorf("brightness %v", got)
	}
	nothing(t, s)
	put(t, dir, "late.jpg", grey(t, 40), 0)
	if got := levels(t, s, 1); got[0] != 40 {
		t.Errorf("brightness %v", got)
	}
	put(t, dir, "old.jpg", grey(t, 50), time.Minute) // written anew, under the same name
	if got := levels(t, s, 1); got[0] != 50 {
		t.Errorf("brightness %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	// After a restart, and after a power cut that follows an orderly end.
	for _, found := range []disk.FS{d, d.Crash(nil)} {
		again := open(t, Config{Dir: dir, Watch: true}, found, io.Discard)
		nothing(t, again)
		put(t, dir, fmt.Sprintf("more-%p.jpg", found), grey(t, 60), time.Hour)
		if got := levels(t, again, 1); got[0] != 60 {
			t.Errorf("brightness %v", got)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("more-%p.jpg", found))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAKilledAgentTakesInOnlyThePictureItHadInHandAgain(t *testing.T) {
	dir, d := t.TempDir(), &disk.Mem{}
	for i := range 5 {
		put(t, dir, fmt.Sprintf("%d.jpg", i), grey(t, byte(10*i+10)), time.Duration(10-i)*time.Hour)
	}
	s := open(t, Config{Dir: dir, Watch: true}, d, io.Discard)
	levels(t, s, 3)
	// No Close: the process is gone, its files are as the kernel has them.
	again := open(t, Config{Dir: dir, Watch: true}, d, io.Discard)
	if got := levels(t, again, 3); !slices.Equal(got, []int{30, 40, 50}) {
		t.Errorf("brightness %v", got)
	}
}

func TestAPictureIsTakenInOnlyWhenItIsFullyWritten(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, Watch: true}, &disk.Mem{}, io.Discard)
	whole := grey(t, 80)
	for n := len(whole) / 4; n < len(whole); n += len(whole) / 4 {
		put(t, dir, "slow.jpg", whole[:n], 0) // its writer pauses for longer than a look takes
		nothing(t, s)
	}
	put(t, dir, "slow.jpg", whole, 0)
	if got := levels(t, s, 1); got[0] != 80 {
		t.Errorf("brightness %v", got)
	}
	if n, _ := s.Unreadable(); n != 0 {
		t.Errorf("%d pictures were given up", n)
	}
}

func TestTimesNeverFall(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.jpg", grey(t, 10), time.Hour)
	s := open(t, Config{Dir: dir, Watch: true}, &disk.Mem{}, io.Discard)
	first, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last := first.Times[0]
	for i, age := range []time.Duration{2 * time.Hour, -time.Hour, time.Minute} {
		put(t, dir, fmt.Sprintf("b%d.jpg", i), grey(t, 20), age)
		rows, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if at := rows.Times[0]; at < last || at > time.Now().UnixNano() {
			t.Errorf("a picture %v old is stamped %v after the one before", age, time.Duration(at-last))
		}
		last = rows.Times[0]
	}
}

func TestTheMemoryOfPicturesIsBounded(t *testing.T) {
	tk := &taken{disk: &disk.Mem{}, name: "images", set: map[uint64]bool{}, present: map[uint64]bool{}}
	stays := file{name: "stays.jpg"}
	tk.insert(stays.hash())
	tk.seen([]file{stays})
	for i := range maxTaken {
		tk.insert(uint64(i) << 20)
	}
	if err := tk.add(file{name: "one more.jpg"}); err != nil {
		t.Fatal(err)
	}
	if n := len(tk.order); n > maxFiles+1 || n != len(tk.set) {
		t.Errorf("%d are kept in order and %d in the set", n, len(tk.set))
	}
	if !tk.has(stays) || !tk.has(file{name: "one more.jpg"}) {
		t.Error("a picture that still lies in the folder is forgotten")
	}
	again, err := openTaken(tk.disk, "images")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.order, tk.order) {
		t.Error("the file says something else")
	}
}

func TestATornMemoryLosesItsEndAlone(t *testing.T) {
	d := &disk.Mem{}
	tk, err := openTaken(d, "images")
	if err != nil {
		t.Fatal(err)
	}
	a, b := file{name: "a.jpg"}, file{name: "b.jpg"}
	if err := errors.Join(tk.add(a), tk.add(b), tk.close()); err != nil {
		t.Fatal(err)
	}
	f, err := d.Append("images")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(13); err != nil {
		t.Fatal(err)
	}
	again, err := openTaken(d, "images")
	if err != nil {
		t.Fatal(err)
	}
	if !again.has(a) || again.has(b) {
		t.Error("want the first picture alone")
	}
	if err := errors.Join(again.add(b), again.close()); err != nil {
		t.Fatal(err)
	}
	if last, err := openTaken(d, "images"); err != nil || !last.has(a) || !last.has(b) {
		t.Errorf("what was added after the torn end is lost: %v", err)
	}
}

func TestConfigurationsThatCannotWorkAreExplained(t *testing.T) {
	for name, c := range map[string]Config{
		"no folder":            {},
		"a watched loop":       {Dir: "x", Watch: true, Loop: true},
		"an extension, no dot": {Dir: "x", Extensions: []string{"jpg"}},
		"a watched hurry":      {Dir: "x", Watch: true, RateHz: -1},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
