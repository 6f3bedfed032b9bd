package dir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/cloud/objects/objectstest"
)

func TestExercise(t *testing.T) {
	s, err := dir.Open(filepath.Join(t.TempDir(), "objects"))
	if err != nil {
		t.Fatal(err)
	}
	objectstest.Exercise(t, s)
}

func TestOpenClearsWhatACrashLeft(t *testing.T) {
	root := t.TempDir()
	if _, err := dir.Open(root); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(root, ".incoming", "half")
	if err := os.WriteFile(left, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Open(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("half a file is still there: %v", err)
	}
}
