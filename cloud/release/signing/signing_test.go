package signing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/swellfleet/swell/cloud/release/signing"
)

func mustOpen(t *testing.T, cfg signing.KeyConfig) *signing.KeyPair {
	t.Helper()
	k, err := signing.OpenKeyPair(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func holds(t *testing.T, k *signing.KeyPair) bool {
	t.Helper()
	message := []byte("a message")
	sig, err := k.Sign(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(k.PublicKey())
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(message)
	return ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), sum[:], sig)
}

func TestTheKeyIsMadeAtFirstStartAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first := mustOpen(t, signing.KeyConfig{Dir: dir})
	if !holds(t, first) {
		t.Fatal("its signature does not hold")
	}
	for name, mode := range map[string]os.FileMode{"cosign.key": 0o600, "cosign.password": 0o600, "cosign.pub": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", name, info, err, mode)
		}
	}
	if again := mustOpen(t, signing.KeyConfig{Dir: dir}); !bytes.Equal(again.PublicKey(), first.PublicKey()) {
		t.Error("the second start has another key")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

func TestThePasswordMayComeFromTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SWELL_TEST_PASSWORD", "correct horse")
	cfg := signing.KeyConfig{Dir: dir, PasswordEnv: "SWELL_TEST_PASSWORD"}
	k := mustOpen(t, cfg)
	if _, err := os.Stat(filepath.Join(dir, "cosign.password")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a password file was written: %v", err)
	}
	t.Setenv("SWELL_TEST_PASSWORD", "wrong")
	if _, err := signing.OpenKeyPair(cfg); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("a wrong password: %v", err)
	}
	t.Setenv("SWELL_TEST_PASSWORD", "")
	if _, err := signing.OpenKeyPair(cfg); err == nil || !strings.Contains(err.Error(), "SWELL_TEST_PASSWORD") {
		t.Errorf("no password: %v", err)
	}
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.PasswordFile = file
	if again := mustOpen(t, cfg); !bytes.Equal(again.PublicKey(), k.PublicKey()) {
		t.Error("the password file opened another key")
	}
}

func TestAKeyFolderInABadStateIsExplained(t *testing.T) {
	whole := t.TempDir()
	k := mustOpen(t, signing.KeyConfig{Dir: whole})
	for _, c := range []struct {
		name, why string // why is empty where the start mends it
		damage    func(dir string) error
	}{
		{"the public half was lost in a crash", "", func(dir string) error { return os.Remove(filepath.Join(dir, "cosign.pub")) }},
		{"another public half", "public half", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "cosign.pub"), []byte("another"), 0o644)
		}},
		{"a password others can read", "chmod 600", func(dir string) error { return os.Chmod(filepath.Join(dir, "cosign.password"), 0o644) }},
		{"a key others can read", "chmod 600", func(dir string) error { return os.Chmod(filepath.Join(dir, "cosign.key"), 0o640) }},
		{"a lost password", "no password", func(dir string) error { return os.Remove(filepath.Join(dir, "cosign.password")) }},
		{"an empty password", "empty", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "cosign.password"), []byte("\n"), 0o600)
		}},
		{"a damaged key", "unlock", func(dir string) error { return os.WriteFile(filepath.Join(dir, "cosign.key"), []byte("x"), 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"cosign.key", "cosign.pub", "cosign.password"} {
				b, err := os.ReadFile(filepath.Join(whole, name))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			again, err := signing.OpenKeyPair(signing.KeyConfig{Dir: dir})
			switch {
			case c.why == "" && (err != nil || !bytes.Equal(again.PublicKey(), k.PublicKey())):
				t.Errorf("not mended: %v", err)
			case c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)):
				t.Errorf("%v; want an error about %q", err, c.why)
			}
		})
	}
	if _, err := signing.OpenKeyPair(signing.KeyConfig{}); err == nil {
		t.Error("no folder was enough")
	}
}

func TestTwoHubsThatStartAtOnceShareOneKey(t *testing.T) {
	dir := t.TempDir()
	keys := make([]*signing.KeyPair, 2)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := signing.OpenKeyPair(signing.KeyConfig{Dir: dir})
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k == nil || !bytes.Equal(k.PublicKey(), keys[0].PublicKey()) {
			t.Fatal("they have different keys")
		}
	}
}

func TestAKeyMadeByTheCosignCommandWorksHere(t *testing.T) {
	home, _ := os.UserHomeDir()
	cli := filepath.Join(home, ".cache", "swell", "bin", "cosign")
	if v := os.Getenv("SWELL_COSIGN"); v != "" {
		cli = v
	}
	if _, err := os.Stat(cli); err != nil {
		t.Skip("the cosign command is not installed; `make test` builds it")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), cli, "generate-key-pair")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=from the command")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("SWELL_TEST_PASSWORD", "from the command")
	k := mustOpen(t, signing.KeyConfig{Dir: dir, PasswordEnv: "SWELL_TEST_PASSWORD"})
	pub, err := os.ReadFile(filepath.Join(dir, "cosign.pub"))
	if err != nil || !bytes.Equal(pub, k.PublicKey()) || !holds(t, k) {
		t.Errorf("public key differs or does not hold: %v", err)
	}
}
