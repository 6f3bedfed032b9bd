// Package artifact holds what a release is made of: digests, device classes,
// counters and the manifest that names every file.
//
// The parties are the hub, which builds a manifest and signs the release, and
// the agent, which believes a manifest only after its signature held (see
// protocol/trust) and then takes from it just the variant of its own class.
// The package is pure: it reads no files and knows no keys.
package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Digest is "sha256:" followed by 64 lower-case hex digits. The zero value
// names nothing.
type Digest string

// Of returns the digest of b.
func Of(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(s[:]))
}

// FromSum returns the digest of an already computed SHA-256 sum.
func FromSum(sum [32]byte) Digest { return Digest("sha256:" + hex.EncodeToString(sum[:])) }

// Hex returns the 64 hex digits, or "" for a digest that is not valid.
func (d Digest) Hex() string {
	if d.Validate() != nil {
		return ""
	}
	return string(d[len("sha256:"):])
}

// Short returns the first 12 hex digits, for people.
func (d Digest) Short() string {
	if h := d.Hex(); h != "" {
		return h[:12]
	}
	return "none"
}

// Validate reports a digest that is not in the one accepted form.
func (d Digest) Validate() error {
	h, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok || len(h) != 64 || strings.Trim(h, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %q: want sha256: and 64 lower-case hex digits", string(d))
	}
	return nil
}

// Class names a group of devices that can run the same bytes ("pump",
// "gearbox.v2"). Classes match exactly, never by prefix.
type Class string

// Kind says what a release replaces on a device.
type Kind string

// The kinds of release.
const (
	Model    Kind = "model"    // an ONNX model by the model contract
	Firmware Kind = "firmware" // an image of the agent itself, for the A/B slots
)

// Role says what a file is for.
type Role string

// The roles of files in a release.
const (
	RoleModel  Role = "model"  // ONNX, contract v1
	RoleGolden Role = "golden" // golden vectors, see Golden
	RoleCard   Role = "card"   // the model card, for people
	RoleImage  Role = "image"  // a firmware image
)

// Limits on a manifest and what it names. A manifest over any of them is
// refused unread.
const (
	MaxManifestBytes = 1 << 20
	MaxVariants      = 4096
	MaxFiles         = 16
	MaxFileBytes     = 2 << 30
	MaxPathLen       = 200
)

// File is one file of a release.
type File struct {
	Path   string `json:"path"` // slash separated, relative, below the release; see ValidPath
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
	Role   Role   `json:"role"`
}

// Variant is what devices of some classes get.
type Variant struct {
	Classes []Class `json:"classes"`        // never empty
	Arch    string  `json:"arch,omitempty"` // GOARCH; empty means any
	Files   []File  `json:"files"`
	// Limits are admission and watchdog limits on the device.
	Limits Limits `json:"limits"`
}

// Limits bound what a device lets an artifact use. Zero means no limit.
type Limits struct {
	MemoryMiB      int     `json:"memory_mib,omitempty"`       // resident growth allowed while loading
	LatencyP99Ms   float64 `json:"latency_p99_ms,omitempty"`   // of one inference
	MaxFlagShare   float64 `json:"max_flag_share,omitempty"`   // share of windows flagged above which the watchdog rolls back
	MinWatchdogObs int     `json:"min_watchdog_obs,omitempty"` // windows seen before MaxFlagShare counts
}

// File returns the variant's file of role r.
func (v Variant) File(r Role) (File, bool) {
	for _, f := range v.Files {
		if f.Role == r {
			return f, true
		}
	}
	return File{}, false
}

// Lineage says where a release came from. Every field may be empty for an
// imported model.
type Lineage struct {
	Run      string `json:"run,omitempty"`      // id of the training run
	Snapshot Digest `json:"snapshot,omitempty"` // of the data it was trained on
	Config   Digest `json:"config,omitempty"`   // of the training configuration
	Code     string `json:"code,omitempty"`     // version of the code that trained it
	Seed     uint64 `json:"seed,omitempty"`
	Parent   Digest `json:"parent,omitempty"` // manifest digest of the release it replaces
}

// Shift is the change in behaviour the trainer expects, from its back-test.
type Shift struct {
	FlagShareChampion   float64 `json:"flag_share_champion"`   // share of windows the parent flags
	FlagShareChallenger float64 `json:"flag_share_challenger"` // share of windows this release flags
}

// Manifest names everything in one release. Its canonical bytes are those of
// Encode; the release's identity is their digest.
type Manifest struct {
	Schema   int       `json:"schema"` // 1
	Kind     Kind      `json:"kind"`
	Name     string    `json:"name"`    // family, e.g. "pump-anomaly"; obeys the rules of topic names
	Counter  uint64    `json:"counter"` // rises by one with each release of the family; starts at 1
	Created  time.Time `json:"created"` // UTC
	Variants []Variant `json:"variants"`
	Lineage  Lineage   `json:"lineage"`
	Expected *Shift    `json:"expected,omitempty"` // nil: no parent to compare with
}

// ID returns the release's name for people, "pump-anomaly-7".
func (m Manifest) ID() string { return fmt.Sprintf("%s-%d", m.Name, m.Counter) }

// Files returns every file the manifest names, once each, sorted by path.
func (m Manifest) Files() []File {
	var all []File
	for _, v := range m.Variants {
		all = append(all, v.Files...)
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return slices.CompactFunc(all, func(a, b File) bool { return a.Path == b.Path })
}

// ErrNoVariant means a release holds nothing for a device's class and
// architecture.
var ErrNoVariant = errors.New("no variant for this device class")

// Select returns the one variant for class and arch.
func (m Manifest) Select(class Class, arch string) (Variant, error) {
	for _, v := range m.Variants {
		if slices.Contains(v.Classes, class) && (v.Arch == "" || v.Arch == arch) {
			return v, nil
		}
	}
	return Variant{}, fmt.Errorf("release %s for class %q on %s: %w", m.ID(), class, arch, ErrNoVariant)
}

// ValidPath accepts what may be a file's path in a release: relative, clean,
// lower-case letters, digits, '-', '_', '.', '/'; no part starts with a dot or ends with one.
func ValidPath(p string) error {
	if p == "" || len(p) > MaxPathLen {
		return fmt.Errorf("path of %d bytes: want 1 to %d", len(p), MaxPathLen)
	}
	if path.Clean(p) != p || path.IsAbs(p) {
		return fmt.Errorf("path %q: want a clean relative path", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part[0] == '.' || part[len(part)-1] == '.' {
			return fmt.Errorf("path %q: no empty part, and none that starts or ends with a dot", p)
		}
		for i := range len(part) {
			c := part[i]
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
				return fmt.Errorf("path %q: use a-z, 0-9, '-', '_', '.'", p)
			}
		}
	}
	return nil
}

// Validate reports the first rule the manifest breaks.
func (m Manifest) Validate() error {
	switch {
	case m.Schema != 1:
		return fmt.Errorf("manifest schema %d: this version reads 1", m.Schema)
	case m.Kind != Model && m.Kind != Firmware:
		return fmt.Errorf("manifest kind %q: want model or firmware", m.Kind)
	case m.Counter == 0 || m.Counter > 1<<53:
		return fmt.Errorf("manifest counter %d: want 1 to 2^53", m.Counter)
	case len(m.Variants) == 0 || len(m.Variants) > MaxVariants:
		return fmt.Errorf("manifest has %d variants: want 1 to %d", len(m.Variants), MaxVariants)
	}
	if err := ValidPath(m.Name); err != nil || strings.Contains(m.Name, "/") {
		return fmt.Errorf("manifest name %q: use a-z, 0-9, '-', '.'", m.Name)
	}
	archs := map[Class][]string{}
	paths := map[string]File{}
	for i, v := range m.Variants {
		if len(v.Classes) == 0 {
			return fmt.Errorf("variant %d: empty class list", i)
		}
		for _, c := range v.Classes {
			// An empty arch means any, so it must not stand beside another.
			for _, other := range archs[c] {
				if other == v.Arch || other == "" || v.Arch == "" {
					return fmt.Errorf("variant %d: a second variant for class %q on %q", i, c, v.Arch)
				}
			}
			if c == "" {
				return fmt.Errorf("variant %d: empty class", i)
			}
			archs[c] = append(archs[c], v.Arch)
		}
		if len(v.Files) == 0 || len(v.Files) > MaxFiles {
			return fmt.Errorf("variant %d has %d files: want 1 to %d", i, len(v.Files), MaxFiles)
		}
		roles := map[Role]bool{}
		for _, f := range v.Files {
			if err := ValidPath(f.Path); err != nil {
				return fmt.Errorf("variant %d: %w", i, err)
			}
			if err := f.Digest.Validate(); err != nil {
				return fmt.Errorf("file %s: %w", f.Path, err)
			}
			if f.Size <= 0 || f.Size > MaxFileBytes {
				return fmt.Errorf("file %s: size %d: want 1 to %d bytes", f.Path, f.Size, int64(MaxFileBytes))
			}
			if slices.Contains(reserved, f.Path) {
				return fmt.Errorf("file %s: the name is the release's own", f.Path)
			}
			if other, ok := paths[f.Path]; ok && other != f {
				return fmt.Errorf("file %s is named twice with different contents", f.Path)
			}
			if roles[f.Role] {
				return fmt.Errorf("variant %d has two files of role %q", i, f.Role)
			}
			roles[f.Role] = true
			paths[f.Path] = f
		}
		if main := map[Kind]Role{Model: RoleModel, Firmware: RoleImage}[m.Kind]; !roles[main] {
			return fmt.Errorf("variant %d of a %s release has no file of role %q", i, m.Kind, main)
		}
	}
	for p := range paths {
		for parent := path.Dir(p); parent != "."; parent = path.Dir(parent) {
			if _, ok := paths[parent]; ok {
				return fmt.Errorf("file %s is also the folder of %s", parent, p)
			}
		}
	}
	return nil
}

// reserved are the names of the files every release has beside those its
// manifest names; see protocol/trust.
var reserved = []string{
	"manifest.json", "model.sig", "model.digests", "model.lineage.sigstore.json",
	"model.slsa.sigstore.json", "trusted_root.json", "cosign.pub",
}

// Encode returns the canonical bytes: compact JSON in field order, UTC times.
func (m Manifest) Encode() ([]byte, error) {
	m.Created = m.Created.UTC().Truncate(time.Second)
	if err := m.Validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(m)
	if err == nil && len(b) > MaxManifestBytes {
		return nil, fmt.Errorf("manifest of %d bytes is over %d", len(b), MaxManifestBytes)
	}
	return b, err
}

// Parse reads a manifest whose signature has been verified. Only the canonical
// bytes are accepted: unknown, doubled or re-cased fields, other spacing,
// trailing bytes and anything Validate refuses are errors.
func Parse(b []byte) (Manifest, error) {
	if len(b) > MaxManifestBytes {
		return Manifest{}, fmt.Errorf("manifest of %d bytes is over %d", len(b), MaxManifestBytes)
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	canonical, err := m.Encode()
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	if !bytes.Equal(b, canonical) {
		return Manifest{}, errors.New("read manifest: not in canonical form (unknown or doubled fields, spaces, or other bytes)")
	}
	return m, nil
}

// Held is what a device remembers of one family of releases. The zero value
// holds nothing and admits any counter.
type Held struct {
	Floor   uint64 // lowest counter that may still be installed; never falls
	Counter uint64 // of the release the device holds
	Digest  Digest // of that release's manifest
}

// Admit says why a verified release with manifest digest d may not replace what
// is held: its counter fell, or the same counter came with other contents.
// Going back on purpose needs a directive that names the release, not Admit.
func (h Held) Admit(m Manifest, d Digest) error {
	switch {
	case m.Counter < h.Floor:
		return fmt.Errorf("release %s is below the lowest allowed counter %d", m.ID(), h.Floor)
	case m.Counter < h.Counter:
		return fmt.Errorf("release %s is older than the one held (%d)", m.ID(), h.Counter)
	case m.Counter == h.Counter && d != h.Digest:
		return fmt.Errorf("release %s has the counter of the one held but other contents (%s, held %s)", m.ID(), d.Short(), h.Digest.Short())
	}
	return nil
}

// Golden are inputs with the scores the hub saw, so that a device can show
// that its runtime computes the same before anything acts on it.
type Golden struct {
	Channels int         `json:"channels"`
	Window   int         `json:"window"`  // samples per channel
	Windows  [][]float32 `json:"windows"` // each Channels*Window values, channel after channel
	// Images are the inputs of an image model instead: RGB, row by row, of the size its contract says. Empty for
	// other models.
	Images [][]byte  `json:"images,omitempty"`
	Scores []float32 `json:"scores"`
	Flags  []bool    `json:"flags"`
	AbsTol float64   `json:"abs_tol"`
	RelTol float64   `json:"rel_tol"`
}

// Check compares what a device computed with what the hub saw.
func (g Golden) Check(i int, score float32, flag bool) error {
	if i < 0 || i >= len(g.Scores) || i >= len(g.Flags) {
		return fmt.Errorf("golden vector %d: the file holds %d scores and %d flags", i, len(g.Scores), len(g.Flags))
	}
	want := float64(g.Scores[i])
	got := float64(score)
	tol := g.AbsTol + g.RelTol*abs(want)
	if !(abs(got-want) <= tol) { // written so that NaN fails
		return fmt.Errorf("golden vector %d: score %g, want %g ± %g", i, got, want, tol)
	}
	if flag != g.Flags[i] {
		return fmt.Errorf("golden vector %d: flag %t, want %t", i, flag, g.Flags[i])
	}
	return nil
}

func abs(x float64) float64 {
	if x < 0 {
		return -x
	}
	return x
}
