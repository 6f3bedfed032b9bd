package agenttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/swellfleet/swell/firmware/image"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// Press makes signed releases, as the hub does.
type Press struct {
	key *ecdsa.PrivateKey
	pem []byte
}

// NewPress makes a press with a key of its own.
func NewPress() *Press {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		panic(err)
	}
	return &Press{key: k, pem: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}
}

// PublicKey is the press's key in PEM.
func (p *Press) PublicKey() string { return string(p.pem) }

// Order says what a release is to hold. Zero values: "pump-anomaly", class
// "pump", the model's own golden vectors.
type Order struct {
	Name    string
	Counter uint64
	Class   artifact.Class
	Model   Model
	Bytes   []byte // instead of the model's
	Golden  []byte // instead of the model's
	Limits  artifact.Limits
	// Files are changed before they are listed and signed.
	Files func([]artifact.File) []artifact.File
}

// Release is a release as a hub publishes it.
type Release struct {
	Name     string
	Counter  uint64
	Manifest artifact.Digest
	Model    artifact.Digest
	Files    map[string][]byte // by path
}

// Release makes and signs a release.
func (p *Press) Release(o Order) Release {
	if o.Name == "" {
		o.Name = "pump-anomaly"
	}
	if o.Class == "" {
		o.Class = "pump"
	}
	model, golden := o.Bytes, o.Golden
	if model == nil {
		model = o.Model.ONNX()
	}
	if golden == nil {
		golden = o.Model.Golden()
	}
	r := Release{Name: o.Name, Counter: o.Counter, Model: artifact.Of(model), Files: map[string][]byte{"pump/model.onnx": model, "pump/golden.json": golden}}
	files := []artifact.File{
		{Path: "pump/model.onnx", Digest: artifact.Of(model), Size: int64(len(model)), Role: artifact.RoleModel},
		{Path: "pump/golden.json", Digest: artifact.Of(golden), Size: int64(len(golden)), Role: artifact.RoleGolden},
	}
	if o.Files != nil {
		files = o.Files(files)
	}
	return p.publish(r, artifact.Manifest{
		Schema: 1, Kind: artifact.Model, Name: o.Name, Counter: o.Counter, Created: time.Unix(1_700_000_000, 0).UTC(),
		Variants: []artifact.Variant{{Classes: []artifact.Class{o.Class}, Files: files, Limits: o.Limits}},
	})
}

// Firmware says what a firmware release is to hold. Zero values: release
// "swell-agent", class "pump", this machine's architecture.
type Firmware struct {
	Name    string
	Counter uint64
	Class   artifact.Class
	Arch    string // of the image
	Version string
	Program []byte
}

// Firmware makes and signs a firmware release. Its Model is the digest of the
// image file.
func (p *Press) Firmware(f Firmware) Release {
	if f.Name == "" {
		f.Name = "swell-agent"
	}
	if f.Class == "" {
		f.Class = "pump"
	}
	if f.Arch == "" {
		f.Arch = runtime.GOARCH
	}
	var b bytes.Buffer
	if err := image.Write(&b, image.Header{Arch: f.Arch, OS: "linux", Version: f.Version, Counter: f.Counter}, f.Program); err != nil {
		panic(err)
	}
	r := Release{Name: f.Name, Counter: f.Counter, Model: artifact.Of(b.Bytes()), Files: map[string][]byte{"firmware.img": b.Bytes()}}
	return p.publish(r, artifact.Manifest{
		Schema: 1, Kind: artifact.Firmware, Name: f.Name, Counter: f.Counter, Created: time.Unix(1_700_000_000, 0).UTC(),
		Variants: []artifact.Variant{{Classes: []artifact.Class{f.Class}, Files: []artifact.File{
			{Path: "firmware.img", Digest: r.Model, Size: int64(b.Len()), Role: artifact.RoleImage},
		}}},
	})
}

// publish signs m and adds it to r.
func (p *Press) publish(r Release, m artifact.Manifest) Release {
	// Not Encode: a press in the hands of an attacker signs what is not valid.
	manifest := must(json.Marshal(m))
	r.Manifest = artifact.Of(manifest)
	r.Files[trust.ManifestFile] = manifest
	r.Files[trust.SignatureFile] = p.sign(m.ID(), manifest, m.Variants[0].Files)
	return r
}

// sign makes the bundle over the manifest and its files.
func (p *Press) sign(name string, manifest []byte, files []artifact.File) []byte {
	type named struct {
		name   string
		digest artifact.Digest
	}
	list := []named{{trust.ManifestFile, artifact.Of(manifest)}}
	for _, f := range files {
		list = append(list, named{f.Path, f.Digest})
	}
	slices.SortFunc(list, func(a, b named) int { return strings.Compare(a.name, b.name) })
	var digests []byte
	resources := []any{}
	for _, n := range list {
		digests = append(digests, must(hex.DecodeString(n.digest.Hex()))...)
		resources = append(resources, map[string]any{"name": n.name, "algorithm": "sha256", "digest": n.digest.Hex()})
	}
	sum := sha256.Sum256(digests)
	payload := must(json.Marshal(map[string]any{
		"_type":         trust.StatementType,
		"subject":       []any{map[string]any{"name": name, "digest": map[string]any{"sha256": hex.EncodeToString(sum[:])}}},
		"predicateType": trust.PredicateRelease,
		"predicate": map[string]any{
			"serialization": map[string]any{"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": []any{}},
			"resources":     resources,
		},
	}))
	message := sha256.Sum256(trust.PAE(payload))
	signature := must(ecdsa.SignASN1(rand.Reader, p.key, message[:]))
	hint := sha256.Sum256(p.pem)
	b64 := base64.StdEncoding.EncodeToString
	return must(json.Marshal(map[string]any{
		"mediaType":            trust.BundleMediaType,
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": hex.EncodeToString(hint[:])}, "tlogEntries": []any{}},
		"dsseEnvelope": map[string]any{
			"payload": b64(payload), "payloadType": trust.PayloadType,
			"signatures": []any{map[string]any{"sig": b64(signature)}},
		},
	}))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
