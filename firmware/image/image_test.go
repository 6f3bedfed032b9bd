package image

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func written(t testing.TB, program []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, Header{Arch: "arm64", Version: "1.4.0", Counter: 7, Other: map[string]string{"board": "press"}}, program); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(b []byte) (Header, []byte, error) {
	h, r, err := Read(bytes.NewReader(b))
	if err != nil {
		return h, nil, err
	}
	program, err := io.ReadAll(r)
	return h, program, err
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	program := bytes.Repeat([]byte("swell"), 10_000)
	h, got, err := read(written(t, program))
	if err != nil || !bytes.Equal(got, program) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if h.Arch != "arm64" || h.Version != "1.4.0" || h.Counter != 7 || h.Size != int64(len(program)) || h.Other["board"] != "press" {
		t.Errorf("header %+v", h)
	}
}

// TestEveryFlippedByteIsFound flips each byte of an image in turn.
func TestEveryFlippedByteIsFound(t *testing.T) {
	b := written(t, []byte("a small program"))
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x40
		if _, _, err := read(bad); err == nil {
			t.Errorf("byte %d flipped: accepted", i)
		}
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	b := written(t, []byte("a small program"))
	for i := range b {
		if _, _, err := read(b[:i]); !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v, want ErrFormat", i, err)
		}
	}
	if _, _, err := read(append(bytes.Clone(b), 0)); !errors.Is(err, ErrFormat) {
		t.Errorf("a byte after the program: %v, want ErrFormat", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(written(f, []byte("a small program")))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, program, err := read(b)
		if err == nil && (int64(len(program)) != h.Size || h.Arch == "") {
			t.Errorf("accepted %+v with %d bytes", h, len(program))
		}
	})
}
