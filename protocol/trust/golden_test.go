package trust_test

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swellfleet/swell/protocol/trust"
)

var update = flag.Bool("update", false, "write testdata/release anew, with keys nobody keeps")

const goldenDir = "testdata/release"

// goldenRoots are the keys of testdata/release.
func goldenRoots(t testing.TB) trust.Roots {
	t.Helper()
	pub, err := os.ReadFile(filepath.Join(goldenDir, trust.PublicKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := os.ReadFile("testdata/ledger.vkey")
	if err != nil {
		t.Fatal(err)
	}
	roots, err := trust.ParseRoots(pub)
	if err != nil {
		t.Fatal(err)
	}
	if roots, err = roots.WithLog(strings.TrimSpace(string(vkey))); err != nil {
		t.Fatal(err)
	}
	return roots
}

// TestAReleaseOfThePastStillVerifies keeps the formats from changing unseen:
// devices hold releases for years.
func TestAReleaseOfThePastStillVerifies(t *testing.T) {
	if *update {
		f := newForge(t)
		published := f.published(t)
		if err := os.RemoveAll(goldenDir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(goldenDir, published); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/ledger.vkey", []byte(f.log.vkey+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir("testdata", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			return os.Chmod(path, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := trust.VerifyDir(goldenDir, goldenRoots(t))
	if err != nil || m.ID() != "pump-anomaly-7" {
		t.Fatalf("%s, %v", m.ID(), err)
	}
}
