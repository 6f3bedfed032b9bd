// Package release turns files into a signed, recorded and published release.
//
// The parties are the night's pipeline or a person, who hand in a Candidate; the
// signing key and the ledger; the object store devices download from; and the
// devices themselves, served by Files.
//
// It promises an order: counter, manifest, signatures, ledger event, files with
// the manifest last, then a full check of what was stored by the same code the
// devices use, then the record. A crash at any point leaves either a whole
// release or none that anybody can see; a run that is repeated gets the release
// it made before. A skipped counter is normal, a counter used twice is not
// possible. It leaves it to others to decide who gets a release.
package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/release/signing"
	"github.com/swellfleet/swell/firmware/image"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// Release is the record of a published release.
type Release struct {
	Manifest artifact.Manifest `json:"manifest"`
	Digest   artifact.Digest   `json:"digest"` // of the manifest's bytes: the release's identity
	Key      string            `json:"key"`    // objects are under this prefix, which ends with a slash
	// Event is the index of the ledger event that announced it.
	Event uint64 `json:"event"`
}

// ErrNotFound means no release has that digest.
var ErrNotFound = errors.New("no such release")

// Store keeps counters and records.
type Store interface {
	// NextCounter returns a number that no earlier call for this name returned:
	// 1, then 2, and so on. It is durable before it returns.
	NextCounter(ctx context.Context, name string) (uint64, error)
	// SaveRelease adds r. The same digest again is no error and changes nothing.
	SaveRelease(ctx context.Context, r Release) error
	// LoadRelease returns one release, or ErrNotFound.
	LoadRelease(ctx context.Context, d artifact.Digest) (Release, error)
	// ListReleases returns the releases of a name, newest counter first.
	ListReleases(ctx context.Context, name string) ([]Release, error)
	// ReleaseOfRun returns the release of a name whose lineage names the run,
	// or ErrNotFound.
	ReleaseOfRun(ctx context.Context, name, run string) (Release, error)
}

// Objects is the part of objects.Store that releases need.
type Objects interface {
	Put(ctx context.Context, key string, r io.Reader, size int64) error
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, objects.Info, error)
	List(ctx context.Context, prefix string) iter.Seq2[objects.Info, error]
}

// Ledger is the part of ledger.Log that releases need.
type Ledger interface {
	signing.Log
	Append(ctx context.Context, e ledger.Event) (ledger.Receipt, error)
}

// Config names the parties. Store, Objects, Ledger and Signer are required.
type Config struct {
	Store   Store
	Objects Objects
	Ledger  Ledger
	Signer  signing.Signer
	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil discards
}

// Builder makes releases, one at a time.
type Builder struct {
	cfg   Config
	roots trust.Roots
	mu    sync.Mutex // held during a build, so that a run repeated at once waits for the first
}

// NewBuilder returns a Builder, or says what cfg lacks.
func NewBuilder(cfg Config) (*Builder, error) {
	if cfg.Store == nil || cfg.Objects == nil || cfg.Ledger == nil || cfg.Signer == nil {
		return nil, errors.New("release builder: store, objects, ledger and signer are all required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	roots, err := trust.ParseRoots(cfg.Signer.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("release builder: %w", err)
	}
	if roots, err = roots.WithLog(cfg.Ledger.VerifierKey()); err != nil {
		return nil, fmt.Errorf("release builder: %w", err)
	}
	return &Builder{cfg: cfg, roots: roots}, nil
}

// Roots returns the root of trust under which this builder's releases verify.
func (b *Builder) Roots() trust.Roots { return b.roots }

// Candidate is what is to become a release.
type Candidate struct {
	Name     string // family, "pump-anomaly"
	Kind     artifact.Kind
	Variants []Variant
	Lineage  artifact.Lineage
	Expected *artifact.Shift // nil: nothing to compare with
	// Card is the model card, plain text for people; it becomes a file of every
	// variant. Empty: none.
	Card string
	// Evaluation is what the back-test found, a JSON object for the lineage
	// bundle. nil: none.
	Evaluation json.RawMessage
	Actor      string // for the ledger, as in ledger.Event; empty means "hub"
	Reason     string // for the ledger; may be empty
	// numbered makes the variants again once the counter is known. nil: they
	// do not depend on it.
	numbered func(counter uint64) ([]Variant, error)
}

// Variant is what devices of some classes get.
type Variant struct {
	Classes []artifact.Class
	Arch    string // GOARCH; empty means any
	Files   []File
	Limits  artifact.Limits
}

// File is one file's place and contents.
type File struct {
	Path string // below the release; see artifact.ValidPath
	Role artifact.Role
	Data io.ReaderAt // read more than once; must not change meanwhile
	Size int64       // bytes
}

// Bytes returns a File held in memory.
func Bytes(path string, role artifact.Role, b []byte) File {
	return File{Path: path, Role: role, Data: bytes.NewReader(b), Size: int64(len(b))}
}

// cardPath is where Candidate.Card goes.
const cardPath = "card.txt"

// Program is a build of the agent to be released.
type Program struct {
	Name    string // family, "swell-agent"
	Classes []artifact.Class
	Arch    string // GOARCH; required
	Version string // as the program says it
	Bytes   []byte
	Actor   string // as in Candidate
	Reason  string
}

// ErrOtherKind means that a family holds releases of another kind.
var ErrOtherKind = errors.New("the family holds releases of another kind")

// Publish releases a program by the same signed way as a model, in a firmware
// image that carries the release's counter (see firmware/image).
func (b *Builder) Publish(ctx context.Context, p Program) (Release, error) {
	before, err := b.cfg.Store.ListReleases(ctx, p.Name)
	if err != nil {
		return Release{}, fmt.Errorf("list releases of %s: %w", p.Name, err)
	}
	for _, r := range before {
		if r.Manifest.Kind != artifact.Firmware {
			return Release{}, fmt.Errorf("release %s: %w (%s is a %s): choose another name", p.Name, ErrOtherKind, r.Manifest.ID(), r.Manifest.Kind)
		}
	}
	variants := func(counter uint64) ([]Variant, error) {
		var file bytes.Buffer
		if err := image.Write(&file, image.Header{Arch: p.Arch, OS: "linux", Version: p.Version, Counter: counter}, p.Bytes); err != nil {
			return nil, err
		}
		return []Variant{{Classes: p.Classes, Arch: p.Arch, Files: []File{Bytes("firmware.img", artifact.RoleImage, file.Bytes())}}}, nil
	}
	first, err := variants(1) // only to see whether it can be made
	if err != nil {
		return Release{}, fmt.Errorf("release %s: %w", p.Name, err)
	}
	return b.Build(ctx, Candidate{
		Name: p.Name, Kind: artifact.Firmware, Variants: first, numbered: variants,
		Lineage: artifact.Lineage{Code: p.Version}, Actor: p.Actor, Reason: p.Reason,
	})
}

// Build makes c a release. A candidate whose Lineage.Run has a release of the
// same name already gets that one back.
func (b *Builder) Build(ctx context.Context, c Candidate) (Release, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.Actor == "" {
		c.Actor = "hub"
	}
	if c.Lineage.Run != "" {
		r, err := b.cfg.Store.ReleaseOfRun(ctx, c.Name, c.Lineage.Run)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return r, err
		}
	}
	r, err := b.build(ctx, c)
	if err != nil {
		return Release{}, fmt.Errorf("release %s: %w", c.Name, err)
	}
	b.cfg.Logger.Info("released", "release", r.Manifest.ID(), "manifest", string(r.Digest), "event", r.Event)
	return r, nil
}

func (b *Builder) build(ctx context.Context, c Candidate) (Release, error) {
	m, files, err := describe(c)
	if err != nil {
		return Release{}, err
	}
	m.Created = b.cfg.Now().UTC().Truncate(time.Second)
	// A candidate that cannot become a manifest must not use up a counter.
	m.Counter = 1
	if err := m.Validate(); err != nil {
		return Release{}, err
	}
	if m.Counter, err = b.cfg.Store.NextCounter(ctx, c.Name); err != nil {
		return Release{}, fmt.Errorf("take the next counter: %w", err)
	}
	if c.numbered != nil {
		if c.Variants, err = c.numbered(m.Counter); err != nil {
			return Release{}, err
		}
		final, again, err := describe(c)
		if err != nil {
			return Release{}, err
		}
		m.Variants, files = final.Variants, again
	}
	manifest, err := m.Encode()
	if err != nil {
		return Release{}, err
	}
	r := Release{Manifest: m, Digest: artifact.Of(manifest)}
	r.Key = keyOf(r.Digest)

	companions, err := b.sign(ctx, c, r, manifest)
	if err != nil {
		return Release{}, err
	}
	if _, err := trust.VerifyRelease(b.roots, companions[trust.SignatureFile], manifest); err != nil {
		return Release{}, fmt.Errorf("own signature does not verify: %w", err)
	}
	if r.Event, err = b.record(ctx, c, r, companions[trust.SignatureFile]); err != nil {
		return Release{}, err
	}

	for _, f := range files {
		if err := b.cfg.Objects.Put(ctx, r.Key+f.Path, io.NewSectionReader(f.Data, 0, f.Size), f.Size); err != nil {
			return Release{}, fmt.Errorf("publish %s: %w", f.Path, err)
		}
	}
	for name, content := range companions {
		if err := b.put(ctx, r.Key+name, content); err != nil {
			return Release{}, err
		}
	}
	// The manifest goes last: Files serves nothing of a release without it.
	if err := b.put(ctx, r.Key+trust.ManifestFile, manifest); err != nil {
		return Release{}, err
	}
	s, _, err := openStored(ctx, b.cfg.Objects, r.Digest)
	if err == nil {
		_, err = trust.VerifyFS(b.roots, s)
	}
	if err != nil {
		return Release{}, fmt.Errorf("what was stored does not verify: %w", err)
	}
	if err := b.cfg.Store.SaveRelease(ctx, r); err != nil {
		return Release{}, fmt.Errorf("save the record: %w", err)
	}
	return r, nil
}

func keyOf(d artifact.Digest) string { return "releases/" + d.Hex() + "/" }

// describe reads every file once and returns the manifest without its counter
// and time, and the files to publish, once each.
func describe(c Candidate) (artifact.Manifest, []File, error) {
	m := artifact.Manifest{Schema: 1, Kind: c.Kind, Name: c.Name, Lineage: c.Lineage, Expected: c.Expected}
	var files []File
	seen := map[string]artifact.File{}
	for _, v := range c.Variants {
		if c.Card != "" {
			v.Files = append(v.Files[:len(v.Files):len(v.Files)], Bytes(cardPath, artifact.RoleCard, []byte(c.Card)))
		}
		mv := artifact.Variant{Classes: v.Classes, Arch: v.Arch, Limits: v.Limits}
		for _, f := range v.Files {
			d, err := digestOf(f)
			if err != nil {
				return artifact.Manifest{}, nil, err
			}
			mf := artifact.File{Path: f.Path, Digest: d, Size: f.Size, Role: f.Role}
			mv.Files = append(mv.Files, mf)
			if _, ok := seen[f.Path]; !ok {
				files = append(files, f)
			}
			seen[f.Path] = mf
		}
		m.Variants = append(m.Variants, mv)
	}
	return m, files, nil
}

// sign returns the companions of a release by file name.
func (b *Builder) sign(ctx context.Context, c Candidate, r Release, manifest []byte) (map[string][]byte, error) {
	covered, digests, err := releaseStatement(r.Manifest, manifest)
	if err != nil {
		return nil, err
	}
	lineage, err := lineageStatement(c, r)
	if err != nil {
		return nil, err
	}
	slsa, err := slsaStatement(c, r)
	if err != nil {
		return nil, err
	}
	root, err := trust.TrustedRoot(b.cfg.Ledger.VerifierKey())
	if err != nil {
		return nil, err
	}
	companions := map[string][]byte{
		trust.DigestsFile:     digests,
		trust.TrustedRootFile: root,
		trust.PublicKeyFile:   b.cfg.Signer.PublicKey(),
	}
	// Signed at once, the three share one wait for the ledger's checkpoint.
	statements := []struct {
		file      string
		statement []byte
	}{{trust.SignatureFile, covered}, {trust.LineageFile, lineage}, {trust.SLSAFile, slsa}}
	bundles := make([][]byte, len(statements))
	g, gctx := errgroup.WithContext(ctx)
	for i, s := range statements {
		g.Go(func() error {
			bundle, err := signing.Sign(gctx, b.cfg.Signer, b.cfg.Ledger, s.statement)
			if err != nil {
				return fmt.Errorf("sign %s: %w", s.file, err)
			}
			bundles[i] = bundle
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, s := range statements {
		companions[s.file] = bundles[i]
	}
	return companions, nil
}

// record writes the event that must be in the ledger before anything can be
// downloaded.
func (b *Builder) record(ctx context.Context, c Candidate, r Release, bundle []byte) (uint64, error) {
	detail, err := json.Marshal(map[string]any{
		"manifest": r.Digest, "counter": r.Manifest.Counter, "signature": artifact.Of(bundle), "run": c.Lineage.Run,
	})
	if err != nil {
		return 0, err
	}
	kind := "Model/"
	if c.Kind == artifact.Firmware {
		kind = "Firmware/"
	}
	receipt, err := b.cfg.Ledger.Append(ctx, ledger.Event{
		Time: b.cfg.Now(), Actor: c.Actor, Action: "release.sign", Object: kind + r.Manifest.ID(), Reason: c.Reason, Detail: detail,
	})
	if err != nil {
		return 0, err
	}
	return receipt.Index, nil
}

func (b *Builder) put(ctx context.Context, key string, content []byte) error {
	if err := b.cfg.Objects.Put(ctx, key, bytes.NewReader(content), int64(len(content))); err != nil {
		return fmt.Errorf("publish %s: %w", path.Base(key), err)
	}
	return nil
}
