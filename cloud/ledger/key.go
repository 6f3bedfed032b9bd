package ledger

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/swellfleet/swell/protocol/trust"
)

const keyFile = "ledger.key"

func treeDir(dir string) string { return filepath.Join(dir, "tree") }

// openKey loads the signing key in dir or makes one. The file holds the note
// form of golang.org/x/mod/sumdb/note, "PRIVATE+KEY+name+hash+key".
func openKey(dir, origin string) (note.Signer, string, error) {
	path := filepath.Join(dir, keyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(dir, origin); err != nil {
			return nil, "", fmt.Errorf("make the ledger key: %w", err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the ledger key: %w", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, "", fmt.Errorf("the ledger key %s can be read by others: run chmod 600 on it", path)
	}
	skey := strings.TrimSpace(string(b))
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, "", fmt.Errorf("read the ledger key: %w", err)
	}
	// NewSigner has seen that there are five parts; the last is base64, in
	// which '+' is a digit.
	parts := strings.SplitN(skey, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, "", errors.New("read the ledger key: not an Ed25519 key")
	}
	pub := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), pub)
	if err != nil {
		return nil, "", fmt.Errorf("read the ledger key: %w", err)
	}
	return signer, vkey, nil
}

// createKey writes a new key so that a crash leaves the whole file or none, and
// so that of two processes starting at once both end up with the same key.
func createKey(dir, origin string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(treeDir(dir)); err == nil {
		return fmt.Errorf("%s holds a log but its key %s is gone: restore the key from your backup", dir, keyFile)
	}
	if origin == "" {
		var r [4]byte
		if _, err := rand.Read(r[:]); err != nil {
			return err
		}
		origin = "swell-ledger-" + hex.EncodeToString(r[:])
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return err
	}
	if _, err := trust.LogID(vkey); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, keyFile+".*") // made 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.WriteString(skey + "\n"); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), filepath.Join(dir, keyFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
