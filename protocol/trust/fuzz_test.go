package trust_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swellfleet/swell/protocol/trust"
)

// FuzzVerifyRelease looks for a bundle that makes the verifier fail in any way
// but by a plain error, or makes it believe another release.
func FuzzVerifyRelease(f *testing.F) {
	roots := goldenRoots(f)
	manifest, err := os.ReadFile(filepath.Join(goldenDir, trust.ManifestFile))
	if err != nil {
		f.Fatal(err)
	}
	bundle, err := os.ReadFile(filepath.Join(goldenDir, trust.SignatureFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bundle)
	f.Add(bundle[:len(bundle)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := trust.VerifyRelease(roots, b, manifest)
		switch {
		case err == nil && m.ID() != "pump-anomaly-7":
			t.Fatalf("believed as %s: %s", m.ID(), b)
		case err != nil && strings.Contains(err.Error(), "verifier failed"):
			t.Fatalf("a panic was caught at the boundary: %v", err)
		}
	})
}
