package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/swellfleet/swell/protocol/artifact"
)

// The files of a release beside those its manifest names.
const (
	ManifestFile    = "manifest.json"
	SignatureFile   = "model.sig"                   // the bundle that covers the manifest and all its files
	DigestsFile     = "model.digests"               // the raw digests model.sig's subject is the hash of
	LineageFile     = "model.lineage.sigstore.json" // where the model files came from
	SLSAFile        = "model.slsa.sigstore.json"    // SLSA provenance of the model files
	TrustedRootFile = "trusted_root.json"           // for the stock cosign command
	PublicKeyFile   = "cosign.pub"                  // for the stock cosign command; never a root of trust
)

// resource is one file covered by model.sig.
type resource struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"`
}

type signedFiles struct {
	Serialization struct {
		Method        string   `json:"method"`
		HashType      string   `json:"hash_type"`
		AllowSymlinks bool     `json:"allow_symlinks"`
		IgnorePaths   []string `json:"ignore_paths"`
	} `json:"serialization"`
	Resources []resource `json:"resources"`
}

var releaseKeys = keySet("_type", "subject", "name", "digest", "sha256", "predicateType", "predicate",
	"serialization", "method", "hash_type", "allow_symlinks", "ignore_paths", "resources", "algorithm")

// VerifyRelease returns the manifest of a release whose bundle (model.sig) is
// signed by a trusted key and covers exactly manifest.json and the files the
// manifest names: none more, none less, the same digests. It reads no files;
// check each with VerifyFile or a Reader before use. Whether the release fits
// the device is not decided here.
func VerifyRelease(roots Roots, bundle, manifest []byte) (m artifact.Manifest, err error) {
	defer noPanic(&err)
	m, _, err = verifyRelease(roots, bundle, manifest)
	if err != nil {
		return artifact.Manifest{}, fmt.Errorf("verify release: %w", err)
	}
	return m, nil
}

// verified is what VerifyFS needs to know beyond the manifest.
type verified struct {
	key     Key
	digests []byte // what model.digests must hold
}

func verifyRelease(roots Roots, bundle, manifest []byte) (artifact.Manifest, verified, error) {
	if len(manifest) > artifact.MaxManifestBytes {
		return artifact.Manifest{}, verified{}, fmt.Errorf("manifest of %d bytes is over %d", len(manifest), artifact.MaxManifestBytes)
	}
	payload, key, err := openBundle(roots, bundle)
	if err != nil {
		return artifact.Manifest{}, verified{}, err
	}
	s, err := parseStatement(payload, releaseKeys, PredicateRelease)
	if err != nil {
		return artifact.Manifest{}, verified{}, err
	}
	var files signedFiles
	if err := strictJSON(s.Predicate, releaseKeys, &files); err != nil {
		return artifact.Manifest{}, verified{}, fmt.Errorf("read signed file list: %w", err)
	}
	signed, digests, err := files.check()
	if err != nil {
		return artifact.Manifest{}, verified{}, err
	}
	if len(s.Subject) != 1 || s.Subject[0].Digest.SHA256 != hexSum(digests) {
		return artifact.Manifest{}, verified{}, errors.New("the signed subject is not the hash of the signed file list")
	}
	if signed[ManifestFile] != artifact.Of(manifest) {
		return artifact.Manifest{}, verified{}, errors.New("the signature is for another manifest")
	}
	m, err := artifact.Parse(manifest)
	if err != nil {
		return artifact.Manifest{}, verified{}, err
	}
	if s.Subject[0].Name != m.ID() {
		return artifact.Manifest{}, verified{}, fmt.Errorf("the signature names release %.80q, the manifest %s", s.Subject[0].Name, m.ID())
	}
	delete(signed, ManifestFile)
	for _, v := range m.Variants {
		for _, f := range v.Files {
			if d, ok := signed[f.Path]; !ok || d != f.Digest {
				return artifact.Manifest{}, verified{}, fmt.Errorf("file %s is not covered by the signature", f.Path)
			}
		}
	}
	if named := m.Files(); len(named) != len(signed) {
		return artifact.Manifest{}, verified{}, fmt.Errorf("the signature covers %d files, the manifest names %d", len(signed), len(named))
	}
	return m, verified{key: key, digests: digests}, nil
}

// check returns the signed files and the concatenation of their raw digests.
func (s signedFiles) check() (map[string]artifact.Digest, []byte, error) {
	if s.Serialization.Method != "files" || s.Serialization.HashType != "sha256" || s.Serialization.AllowSymlinks {
		return nil, nil, errors.New("signed file list: want whole files, SHA-256 and no symbolic links")
	}
	signed := make(map[string]artifact.Digest, len(s.Resources))
	var digests []byte
	for i, r := range s.Resources {
		if i > 0 && r.Name <= s.Resources[i-1].Name {
			return nil, nil, fmt.Errorf("signed file list is not sorted, or doubled, at %.80q", r.Name)
		}
		if err := artifact.ValidPath(r.Name); err != nil {
			return nil, nil, fmt.Errorf("signed file list: %w", err)
		}
		d := artifact.Digest("sha256:" + r.Digest)
		if err := d.Validate(); err != nil || r.Algorithm != "sha256" {
			return nil, nil, fmt.Errorf("signed file %s: want a sha256 digest", r.Name)
		}
		raw, err := hex.DecodeString(r.Digest)
		if err != nil {
			return nil, nil, fmt.Errorf("signed file %s: %w", r.Name, err)
		}
		signed[r.Name] = d
		digests = append(digests, raw...)
	}
	return signed, digests, nil
}

// Reader passes a file through while it counts and hashes it. Reading past the
// signed size fails at once, so an endless source costs no more than the file.
type Reader struct {
	src  io.Reader
	file artifact.File
	sum  hash.Hash
	n    int64
}

// NewReader returns a Reader that expects file f from src. resumed is the part
// already held from an earlier attempt, which is read and hashed first and not
// passed on; nil when there is none.
func NewReader(src io.Reader, f artifact.File, resumed io.Reader) (*Reader, error) {
	r := &Reader{src: src, file: f, sum: sha256.New()}
	if resumed != nil {
		n, err := io.Copy(r.sum, io.LimitReader(resumed, f.Size+1))
		if err != nil {
			return nil, fmt.Errorf("read the part of %s held so far: %w", f.Path, err)
		}
		if r.n = n; n > f.Size {
			return nil, r.tooLong()
		}
	}
	return r, nil
}

// Read implements io.Reader. At the end of the source it returns io.EOF only
// when size and digest are those of the manifest; otherwise the error says
// which differs.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.n += int64(n)
	if r.n > r.file.Size {
		return 0, r.tooLong()
	}
	r.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		err = r.check()
		if err == nil {
			err = io.EOF
		}
	}
	return n, err
}

func (r *Reader) tooLong() error {
	return fmt.Errorf("file %s is longer than the %d bytes signed for", r.file.Path, r.file.Size)
}

func (r *Reader) check() error {
	if r.n != r.file.Size {
		return fmt.Errorf("file %s ends after %d of %d bytes", r.file.Path, r.n, r.file.Size)
	}
	if got := artifact.FromSum([32]byte(r.sum.Sum(nil))); got != r.file.Digest {
		return fmt.Errorf("file %s has digest %s, signed was %s", r.file.Path, got.Short(), r.file.Digest.Short())
	}
	return nil
}

// VerifyFile reads src to its end and checks it against f.
func VerifyFile(src io.Reader, f artifact.File) error {
	r, err := NewReader(src, f, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// VerifyDir checks a whole release as published: the bundle, the manifest, every
// file, and the companions that are there for other tools (lineage, provenance,
// digests, key, trusted root), which must say the same as what the signature
// says. A file that is missing, not a plain file, or not part of the release is
// an error.
func VerifyDir(dir string, roots Roots) (artifact.Manifest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return artifact.Manifest{}, fmt.Errorf("verify release: %w", err)
	}
	defer root.Close()
	return VerifyFS(roots, root.FS())
}

// VerifyFS is VerifyDir for a release that is not on this machine's disk.
func VerifyFS(roots Roots, dir fs.FS) (m artifact.Manifest, err error) {
	defer noPanic(&err)
	bundle, err := readCapped(dir, SignatureFile, MaxBundleBytes)
	if err != nil {
		return artifact.Manifest{}, err
	}
	manifest, err := readCapped(dir, ManifestFile, artifact.MaxManifestBytes)
	if err != nil {
		return artifact.Manifest{}, err
	}
	if roots.log == nil {
		// Without a known ledger key the one in the folder still has to agree
		// with the proofs in the folder: a damaged file is noticed, though a
		// forged ledger is not.
		b, err := readCapped(dir, TrustedRootFile, maxCheckpointBytes)
		if err != nil {
			return artifact.Manifest{}, err
		}
		if roots.log, err = parseTrustedRoot(b); err != nil {
			return artifact.Manifest{}, err
		}
	}
	m, v, err := verifyRelease(roots, bundle, manifest)
	if err != nil {
		return artifact.Manifest{}, fmt.Errorf("verify release: %w", err)
	}
	files := m.Files()
	if err := verifyCompanions(roots, dir, v, files); err != nil {
		return artifact.Manifest{}, fmt.Errorf("verify release %s: %w", m.ID(), err)
	}
	if err := verifyListing(dir, files); err != nil {
		return artifact.Manifest{}, fmt.Errorf("verify release %s: %w", m.ID(), err)
	}
	for _, f := range files {
		if err := verifyFSFile(dir, f); err != nil {
			return artifact.Manifest{}, fmt.Errorf("verify release %s: %w", m.ID(), err)
		}
	}
	return m, nil
}

func verifyFSFile(dir fs.FS, f artifact.File) error {
	r, err := dir.Open(f.Path)
	if err != nil {
		return fmt.Errorf("open file %s: %w", f.Path, err)
	}
	defer r.Close()
	return VerifyFile(r, f)
}

func verifyCompanions(roots Roots, dir fs.FS, v verified, files []artifact.File) error {
	root, err := roots.log.trustedRoot()
	if err != nil {
		return err
	}
	for _, same := range []struct {
		name string
		want []byte
	}{
		{DigestsFile, v.digests},
		{PublicKeyFile, v.key.PEM()},
		{TrustedRootFile, root},
	} {
		got, err := readCapped(dir, same.name, MaxBundleBytes)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, same.want) {
			return fmt.Errorf("%s is not what the signature says", same.name)
		}
	}
	for name, predicate := range map[string]string{LineageFile: PredicateLineage, SLSAFile: PredicateSLSA} {
		b, err := readCapped(dir, name, MaxBundleBytes)
		if err != nil {
			return err
		}
		for _, f := range files {
			if f.Role != artifact.RoleModel && f.Role != artifact.RoleImage {
				continue
			}
			if _, err := VerifyBlob(roots, b, predicate, f.Digest); err != nil {
				return fmt.Errorf("%s for %s: %w", name, f.Path, err)
			}
		}
	}
	return nil
}

// verifyListing refuses any name in dir that is not part of the release, and
// anything that is not a plain file or a folder on the way to one.
func verifyListing(dir fs.FS, files []artifact.File) error {
	known, folders := map[string]bool{}, map[string]bool{".": true}
	for _, name := range []string{ManifestFile, SignatureFile, DigestsFile, LineageFile, SLSAFile, TrustedRootFile, PublicKeyFile} {
		known[name] = true
	}
	for _, f := range files {
		known[f.Path] = true
		for p := path.Dir(f.Path); p != "."; p = path.Dir(p) {
			folders[p] = true
		}
	}
	return fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("list %s: %w", name, err)
		case d.Type().IsRegular():
			if !known[name] {
				return fmt.Errorf("file %q is not part of the release", name)
			}
		case d.IsDir():
			if !folders[name] {
				return fmt.Errorf("folder %q is not part of the release", name)
			}
		default:
			return fmt.Errorf("%q is not a plain file (%s)", name, d.Type())
		}
		return nil
	})
}

// readCapped reads a plain file of at most limit bytes.
func readCapped(dir fs.FS, name string, limit int64) ([]byte, error) {
	info, err := fs.Lstat(dir, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a plain file (%s)", name, info.Mode().Type())
	}
	f, err := dir.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: over %d bytes", name, limit)
	}
	return b, nil
}
