package signing

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// The files of a key pair in its folder.
const (
	privateFile  = "cosign.key"
	publicFile   = "cosign.pub"
	passwordFile = "cosign.password"
)

// DefaultPasswordEnv is the environment variable with the key's password.
const DefaultPasswordEnv = "SWELL_SIGNING_PASSWORD"

// KeyConfig says where the key pair and its password are.
type KeyConfig struct {
	// Dir holds cosign.key and cosign.pub. Required; made when absent.
	Dir string
	// PasswordEnv names the environment variable with the password. Empty
	// means DefaultPasswordEnv. A variable that is set and not
	// empty wins over the file.
	PasswordEnv string
	// PasswordFile holds the password on one line and must be readable by its
	// owner only (0600). Empty means cosign.password in Dir, which is made with
	// a random password when the key pair is.
	PasswordFile string
}

// KeyPair is a password-protected cosign key pair, unlocked.
type KeyPair struct {
	signer signature.Signer
	public []byte
}

// OpenKeyPair loads the key pair in cfg.Dir, or makes one (ECDSA P-256, the form
// `cosign generate-key-pair` writes) when there is none. Unlocking takes most of
// a second on purpose, so open it once.
func OpenKeyPair(cfg KeyConfig) (*KeyPair, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open signing key: no folder given")
	}
	if cfg.PasswordEnv == "" {
		cfg.PasswordEnv = DefaultPasswordEnv
	}
	if cfg.PasswordFile == "" {
		cfg.PasswordFile = filepath.Join(cfg.Dir, passwordFile)
	}
	k, err := cfg.load()
	if errors.Is(err, fs.ErrNotExist) {
		if err := cfg.create(); err != nil {
			return nil, fmt.Errorf("make signing key in %s: %w", cfg.Dir, err)
		}
		k, err = cfg.load()
	}
	if err != nil {
		return nil, fmt.Errorf("open signing key in %s: %w", cfg.Dir, err)
	}
	return k, nil
}

// Sign implements Signer.
func (k *KeyPair) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return k.signer.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
}

// PublicKey implements Signer.
func (k *KeyPair) PublicKey() []byte { return bytes.Clone(k.public) }

// load returns fs.ErrNotExist only when there is no private key.
func (cfg KeyConfig) load() (*KeyPair, error) {
	path := filepath.Join(cfg.Dir, privateFile)
	private, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := ownerOnly(path); err != nil {
		return nil, err
	}
	password, err := cfg.password()
	if err != nil {
		return nil, err
	}
	signer, err := cosign.LoadPrivateKey(private, password, nil)
	if err != nil {
		return nil, fmt.Errorf("unlock %s (is the password right?): %w", path, err)
	}
	pub, err := signer.PublicKey()
	if err != nil {
		return nil, err
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(pub)
	if err != nil {
		return nil, err
	}
	if _, err := publicDER(public); err != nil {
		return nil, err
	}
	// cosign.pub is for people; it is written anew when a crash left it out.
	pubPath := filepath.Join(cfg.Dir, publicFile)
	if have, err := os.ReadFile(pubPath); err != nil || !bytes.Equal(have, public) {
		if err == nil {
			return nil, fmt.Errorf("%s is not the public half of %s: remove it and start again", pubPath, privateFile)
		}
		if err := writeOnce(pubPath, public, 0o644); err != nil {
			return nil, err
		}
	}
	return &KeyPair{signer: signer, public: public}, nil
}

// password returns the password, without the line's end.
func (cfg KeyConfig) password() ([]byte, error) {
	if v := os.Getenv(cfg.PasswordEnv); v != "" {
		return []byte(v), nil
	}
	b, err := os.ReadFile(cfg.PasswordFile)
	if errors.Is(err, fs.ErrNotExist) {
		// Not wrapped: a lost password must not look like a missing key.
		return nil, fmt.Errorf("no password for the signing key: set %s or write it to %s", cfg.PasswordEnv, cfg.PasswordFile)
	}
	if err != nil {
		return nil, err
	}
	if err := ownerOnly(cfg.PasswordFile); err != nil {
		return nil, err
	}
	p := strings.TrimRight(string(b), "\r\n")
	if p == "" {
		return nil, fmt.Errorf("the password file %s is empty", cfg.PasswordFile)
	}
	return []byte(p), nil
}

func ownerOnly(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others: run chmod 600 on it", path)
	}
	return nil
}

// create writes a password, unless one is given, and then a key. Each file
// appears whole or not at all, so a crash at any point is mended by the next
// start, and of two processes that start at once both load the same key.
func (cfg KeyConfig) create() error {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	given := os.Getenv(cfg.PasswordEnv) != ""
	if _, err := os.Stat(cfg.PasswordFile); !given && errors.Is(err, fs.ErrNotExist) {
		password := base64.RawURLEncoding.EncodeToString(randomBytes(24))
		if err := writeOnce(cfg.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
			return err
		}
	}
	password, err := cfg.password()
	if err != nil {
		return err
	}
	keys, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		return err
	}
	return writeOnce(filepath.Join(cfg.Dir, privateFile), keys.PrivateBytes, 0o600)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(rand.Reader, b); err != nil {
		panic(err) // the system's source of randomness does not fail
	}
	return b
}

// writeOnce makes path with its whole contents, synced. A file that is already
// there is left alone.
func writeOnce(path string, b []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(b); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(mode), tmp.Sync()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
