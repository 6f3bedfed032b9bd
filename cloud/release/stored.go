package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// maxStored bounds the objects looked at under one release's prefix.
const maxStored = artifact.MaxVariants*artifact.MaxFiles + 16

// Check is one thing that was checked about a stored release.
type Check struct {
	Name string
	Held string // what is known when Err is nil, a sentence
	Err  error  // why it does not hold
}

// Verify reads a stored release again and says about each part whether it
// holds: the signature, the digests, lineage, provenance, the ledger's
// receipts, and the whole, with nothing missing and nothing added. A release
// that is not there, or is another one, is an error.
func Verify(ctx context.Context, store Objects, roots trust.Roots, d artifact.Digest) ([]Check, error) {
	s, manifest, err := openStored(ctx, store, d)
	if err != nil {
		return nil, err
	}
	var pem []byte
	for _, k := range roots.Keys() {
		pem = append(pem, k.PEM()...)
	}
	keys, err := trust.ParseRoots(pem) // the same keys, and no question to the ledger
	if err != nil {
		return nil, err
	}
	var out []Check
	add := func(name, held string, err error) { out = append(out, Check{name, held, err}) }

	bundle, err := fs.ReadFile(s, trust.SignatureFile)
	if err != nil {
		add("model signature", "", err)
		return out, ctx.Err()
	}
	m, err := trust.VerifyRelease(keys, bundle, manifest)
	add("model signature", fmt.Sprintf("a trusted key signed the manifest and all %d files it names", len(m.Files())), err)
	if err != nil {
		return out, ctx.Err() // what follows would be about files nobody vouches for
	}
	err = nil
	for _, f := range m.Files() {
		err = errors.Join(err, s.checkFile(f))
	}
	add("digests", "every stored file has the digest that was signed", err)

	_, proofs := trust.VerifyRelease(roots, bundle, manifest)
	for _, p := range []struct{ name, file, predicate, held string }{
		{"lineage", trust.LineageFile, trust.PredicateLineage, "a trusted key signed what the model was made from"},
		{"slsa provenance", trust.SLSAFile, trust.PredicateSLSA, "a trusted key signed how the model was built"},
	} {
		bundle, err := fs.ReadFile(s, p.file)
		for _, f := range m.Files() {
			if err != nil || f.Role != artifact.RoleModel && f.Role != artifact.RoleImage {
				continue
			}
			if _, err = trust.VerifyBlob(keys, bundle, p.predicate, f.Digest); err == nil {
				_, proof := trust.VerifyBlob(roots, bundle, p.predicate, f.Digest)
				proofs = errors.Join(proofs, proof)
			}
		}
		add(p.name, p.held, err)
	}
	add("ledger receipt", "the ledger proves that it holds each of these signatures", proofs)
	_, err = trust.VerifyFS(roots, s)
	add("whole release", "no file is missing or extra, and the companions for other tools say the same", err)
	return out, ctx.Err()
}

func (s stored) checkFile(f artifact.File) error {
	r, err := s.Open(f.Path)
	if err != nil {
		return err
	}
	return errors.Join(trust.VerifyFile(r, f), r.Close())
}

// openStored lists a release and reads its manifest.
func openStored(ctx context.Context, store Objects, d artifact.Digest) (stored, []byte, error) {
	s := stored{ctx: ctx, objects: store, prefix: keyOf(d), files: map[string]objects.Info{}}
	for info, err := range store.List(ctx, s.prefix) {
		if err != nil {
			return s, nil, fmt.Errorf("list release %s: %w", d.Short(), err)
		}
		if len(s.files) == maxStored {
			return s, nil, fmt.Errorf("release %s has more than %d objects", d.Short(), maxStored)
		}
		s.files[strings.TrimPrefix(info.Key, s.prefix)] = info
	}
	if len(s.files) == 0 {
		return s, nil, fmt.Errorf("release %s: %w", d.Short(), ErrNotFound)
	}
	manifest, err := fs.ReadFile(s, trust.ManifestFile)
	if err != nil {
		return s, nil, fmt.Errorf("release %s: %w", d.Short(), err)
	}
	if artifact.Of(manifest) != d {
		return s, nil, fmt.Errorf("release %s: another release's manifest is stored under it", d.Short())
	}
	return s, manifest, nil
}

// stored shows the objects of one release as a file system, for the length of
// one check; that is why it may hold a context.
type stored struct {
	ctx     context.Context
	objects Objects
	prefix  string
	files   map[string]objects.Info // by name below the prefix
}

func (s stored) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if info, ok := s.files[name]; ok {
		r, _, err := s.objects.Get(s.ctx, info.Key, 0, -1)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &storedFile{r, storedInfo{name, info.Size, 0}}, nil
	}
	entries := s.entries(name)
	if len(entries) == 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &storedDir{storedInfo{name, 0, fs.ModeDir}, entries}, nil
}

// entries lists the files and folders directly in a folder.
func (s stored) entries(dir string) []fs.DirEntry {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	found := map[string]storedInfo{}
	for name, info := range s.files {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if child, _, below := strings.Cut(rest, "/"); below {
			found[child] = storedInfo{child, 0, fs.ModeDir}
		} else {
			found[rest] = storedInfo{rest, info.Size, 0}
		}
	}
	var entries []fs.DirEntry
	for _, info := range found {
		entries = append(entries, fs.FileInfoToDirEntry(info))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries
}

type storedFile struct {
	io.ReadCloser
	info storedInfo
}

func (f *storedFile) Stat() (fs.FileInfo, error) { return f.info, nil }

type storedDir struct {
	info    storedInfo
	entries []fs.DirEntry // not yet read
}

func (d *storedDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *storedDir) Close() error               { return nil }
func (d *storedDir) Read([]byte) (int, error)   { return 0, errors.New("is a folder") }

func (d *storedDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		all := d.entries
		d.entries = nil
		return all, nil
	}
	if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	some := d.entries[:n]
	d.entries = d.entries[n:]
	return some, nil
}

type storedInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i storedInfo) Name() string       { return path.Base(i.name) }
func (i storedInfo) Size() int64        { return i.size }
func (i storedInfo) Mode() fs.FileMode  { return i.mode | 0o444 }
func (i storedInfo) ModTime() time.Time { return time.Time{} }
func (i storedInfo) IsDir() bool        { return i.mode.IsDir() }
func (i storedInfo) Sys() any           { return nil }
