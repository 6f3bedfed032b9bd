package trust_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

func signedFile(content string) artifact.File {
	return artifact.File{Path: "model.onnx", Digest: artifact.Of([]byte(content)), Size: int64(len(content)), Role: artifact.RoleModel}
}

func TestAFileIsCheckedWhileItStreams(t *testing.T) {
	const good = "the weights of the model"
	for _, c := range []struct {
		name, sent, why string
	}{
		{"as signed", good, ""},
		{"tampered", strings.Replace(good, "w", "W", 1), "digest"},
		{"truncated", good[:len(good)-1], "ends after"},
		{"appended", good + "!", "longer"},
		{"empty", "", "ends after"},
		{"sparse, of the right length", strings.Repeat("\x00", len(good)), "digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, src := range map[string]io.Reader{
				"at once": strings.NewReader(c.sent), "byte by byte": iotest.OneByteReader(strings.NewReader(c.sent)),
				"with its end": iotest.DataErrReader(strings.NewReader(c.sent)),
			} {
				err := trust.VerifyFile(src, signedFile(good))
				if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
					t.Errorf("%s: %v; want %q", how, err, c.why)
				}
			}
		})
	}
}

type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) { e.read += len(p); return len(p), nil }

func TestAnEndlessSourceIsLeftSoonAfterTheSignedSize(t *testing.T) {
	src := &endless{}
	f := signedFile("short")
	f.Size = 100_000
	if err := trust.VerifyFile(src, f); err == nil || src.read > 200_000 {
		t.Fatalf("%v after %d bytes", err, src.read)
	}
}

func TestADownloadResumesOverThePartHeld(t *testing.T) {
	const good = "the weights of the model"
	resume := func(held, rest string) error {
		r, err := trust.NewReader(strings.NewReader(rest), signedFile(good), strings.NewReader(held))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		return err
	}
	if err := resume(good[:7], good[7:]); err != nil {
		t.Error(err)
	}
	if err := resume(good, ""); err != nil {
		t.Error(err)
	}
	for name, parts := range map[string][2]string{
		"the held part was changed":     {"THE WEI", good[7:]},
		"the range is another one":      {good[:7], good[8:]},
		"the held part is too long":     {good + "!", ""},
		"the server began from nothing": {good[:7], good},
	} {
		if err := resume(parts[0], parts[1]); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
	broken := errors.New("disk gone")
	if _, err := trust.NewReader(strings.NewReader(""), signedFile(good), iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a held part that cannot be read: %v", err)
	}
	if err := trust.VerifyFile(iotest.ErrReader(broken), signedFile(good)); !errors.Is(err, broken) {
		t.Errorf("a source that breaks: %v", err)
	}
}

func TestAWholeReleaseIsCheckedAsPublished(t *testing.T) {
	f := newForge(t)
	good := f.published(t)
	roots := f.key.roots(t)
	if m, err := trust.VerifyFS(roots, good); err != nil || m.ID() != "pump-anomaly-7" {
		t.Fatal(m.ID(), err)
	}
	otherLog, err := roots.WithLog(newTestLog(t, "ledger.test").vkey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyFS(otherLog, good); err == nil {
		t.Error("a release recorded in another ledger was believed")
	}
	for name := range good {
		without := maps.Clone(good)
		delete(without, name)
		if _, err := trust.VerifyFS(roots, without); err == nil {
			t.Errorf("a release without %s was believed", name)
		}
	}
	for name, file := range map[string]*fstest.MapFile{
		"extra.so":        {Data: []byte("x")},
		"pump/extra.onnx": {Data: []byte("x")},
		"Card.txt":        {Data: []byte("x")},
		"CARD.TXT":        good["card.txt"],
		".hidden":         {Data: nil},
		"empty-folder":    {Mode: fs.ModeDir},
		"pump/pipe":       {Mode: fs.ModeNamedPipe},
		"device":          {Mode: fs.ModeDevice},
		"link":            {Mode: fs.ModeSymlink, Data: []byte("card.txt")},
		"model.sig.old":   good[trust.SignatureFile],
	} {
		with := maps.Clone(good)
		with[name] = file
		if _, err := trust.VerifyFS(roots, with); err == nil {
			t.Errorf("a release with %s added was believed", name)
		}
	}
}

// TestAnyChangedByteOfAReleaseIsNoticed flips bits in every file, at each
// place of the small ones and at many of the bundles.
func TestAnyChangedByteOfAReleaseIsNoticed(t *testing.T) {
	f := newForge(t)
	good := f.published(t)
	roots := f.key.roots(t)
	tried := 0
	for name, file := range good {
		step := 1 + len(file.Data)/150
		for at := 0; at < len(file.Data); at += step {
			for _, bit := range []byte{0x01, 0x20} { // 0x20 changes a letter's case
				bad := maps.Clone(good)
				b := bytes.Clone(file.Data)
				b[at] ^= bit
				bad[name] = &fstest.MapFile{Data: b}
				if _, err := trust.VerifyFS(roots, bad); err == nil {
					t.Errorf("%s with byte %d changed from %q to %q was believed", name, at, file.Data[at], b[at])
				}
				tried++
			}
		}
	}
	t.Logf("%d changes tried", tried)
}

func TestSpecialFilesInAFolderAreRefused(t *testing.T) {
	f := newForge(t)
	lay := func(t *testing.T) string {
		dir := t.TempDir()
		if err := os.CopyFS(dir, f.published(t)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if _, err := trust.VerifyDir(lay(t), f.key.roots(t)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		place func(card string) error
	}{
		{"a symbolic link to the same bytes", func(card string) error {
			if err := os.Rename(card, card+".away"); err != nil {
				return err
			}
			defer os.Remove(card + ".away")
			outside := filepath.Join(t.TempDir(), "card")
			if err := os.WriteFile(outside, []byte(goodFiles()["card.txt"]), 0o644); err != nil {
				return err
			}
			return os.Symlink(outside, card)
		}},
		{"a dangling link", func(card string) error { return errors.Join(os.Remove(card), os.Symlink("nowhere", card)) }},
		{"a FIFO", func(card string) error { return errors.Join(os.Remove(card), syscall.Mkfifo(card, 0o644)) }},
		{"a folder", func(card string) error { return errors.Join(os.Remove(card), os.Mkdir(card, 0o755)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"card.txt", trust.SignatureFile} {
				dir := lay(t)
				if err := c.place(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				if _, err := trust.VerifyDir(dir, f.key.roots(t)); err == nil {
					t.Fatalf("%s in place of %s was believed", c.name, name)
				}
			}
		})
	}
	if _, err := trust.VerifyDir(filepath.Join(t.TempDir(), "absent"), f.key.roots(t)); err == nil {
		t.Error("an absent folder was believed")
	}
}
