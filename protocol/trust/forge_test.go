package trust_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// signer is a release key made for a test.
type signer struct {
	*ecdsa.PrivateKey
	der []byte
	pem []byte
}

func newSigner(t testing.TB) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}
}

func (s signer) hint() string {
	sum := sha256.Sum256(s.pem)
	return hex.EncodeToString(sum[:])
}

func (s signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, s.PrivateKey, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func (s signer) roots(t testing.TB) trust.Roots {
	t.Helper()
	r, err := trust.ParseRoots(s.pem)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// testLog is a transparency log in memory.
type testLog struct {
	signer note.Signer
	vkey   string
	leaves [][]byte
	hashes []tlog.Hash
}

func newTestLog(t testing.TB, name string) *testLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return &testLog{signer: s, vkey: vkey}
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *testLog) tree(t testing.TB) tlog.Tree {
	t.Helper()
	root, err := tlog.TreeHash(int64(len(l.leaves)), l)
	if err != nil {
		t.Fatal(err)
	}
	return tlog.Tree{N: int64(len(l.leaves)), Hash: root}
}

func (l *testLog) checkpoint(t testing.TB, tree tlog.Tree) string {
	t.Helper()
	text := fmt.Sprintf("%s\n%d\n%s\n", l.signer.Name(), tree.N, base64.StdEncoding.EncodeToString(tree.Hash[:]))
	signed, err := note.Sign(&note.Note{Text: text}, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

func (l *testLog) append(t testing.TB, leaf []byte) trust.Receipt {
	t.Helper()
	index := int64(len(l.leaves))
	hs, err := tlog.StoredHashes(index, leaf, l)
	if err != nil {
		t.Fatal(err)
	}
	l.hashes = append(l.hashes, hs...)
	l.leaves = append(l.leaves, leaf)
	return l.prove(t, index)
}

func (l *testLog) prove(t testing.TB, index int64) trust.Receipt {
	t.Helper()
	p, err := tlog.ProveRecord(int64(len(l.leaves)), index, l)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Receipt{Index: uint64(index), Proof: p, Checkpoint: l.checkpoint(t, l.tree(t))}
}

// doc is a JSON object that a test changes before it is written.
type doc = map[string]any

// forge makes bundles as the hub does, with a hand on every step.
type forge struct {
	key signer
	log *testLog

	statement func(doc)           // changes the statement before it is signed; nil: no change
	payload   func([]byte) []byte // changes the payload before it is signed; nil: no change
	envelope  func(doc)           // changes the bundle after it was signed; nil: no change
}

func newForge(t testing.TB) *forge {
	f := &forge{key: newSigner(t), log: newTestLog(t, "ledger.test")}
	f.log.append(t, []byte("an earlier leaf"))
	return f
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bundle signs a statement.
func (f *forge) bundle(t testing.TB, statement doc) []byte {
	t.Helper()
	if f.statement != nil {
		f.statement(statement)
	}
	payload := mustJSON(t, statement)
	if f.payload != nil {
		payload = f.payload(payload)
	}
	sig := f.key.sign(t, trust.PAE(payload))
	body := trust.LogBody(payload, sig, f.key.der)
	r := f.log.append(t, body)
	tree := f.log.tree(t)
	id, err := trust.LogID(f.log.vkey)
	if err != nil {
		t.Fatal(err)
	}
	hashes := []string{}
	for _, h := range r.Proof {
		hashes = append(hashes, b64(h[:]))
	}
	b := doc{
		"mediaType": trust.BundleMediaType,
		"verificationMaterial": doc{
			"publicKey": doc{"hint": f.key.hint()},
			"tlogEntries": []any{doc{
				"logIndex":    fmt.Sprint(r.Index),
				"logId":       doc{"keyId": b64(id)},
				"kindVersion": doc{"kind": "dsse", "version": "0.0.2"},
				"inclusionProof": doc{
					"logIndex": fmt.Sprint(r.Index), "rootHash": b64(tree.Hash[:]), "treeSize": fmt.Sprint(tree.N),
					"hashes": hashes, "checkpoint": doc{"envelope": r.Checkpoint},
				},
				"canonicalizedBody": b64(body),
			}},
		},
		"dsseEnvelope": doc{
			"payload": b64(payload), "payloadType": trust.PayloadType,
			"signatures": []any{doc{"sig": b64(sig)}},
		},
	}
	if f.envelope != nil {
		f.envelope(b)
	}
	return mustJSON(t, b)
}

// goodManifest is a release of two variants that share a card.
func goodManifest(files map[string]string) artifact.Manifest {
	file := func(path string, role artifact.Role) artifact.File {
		return artifact.File{Path: path, Digest: artifact.Of([]byte(files[path])), Size: int64(len(files[path])), Role: role}
	}
	card := file("card.txt", artifact.RoleCard)
	return artifact.Manifest{
		Schema: 1, Kind: artifact.Model, Name: "pump-anomaly", Counter: 7,
		Created: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC),
		Variants: []artifact.Variant{
			{Classes: []artifact.Class{"pump"}, Files: []artifact.File{file("pump/model.onnx", artifact.RoleModel), card}},
			{Classes: []artifact.Class{"gearbox"}, Files: []artifact.File{file("gearbox/model.onnx", artifact.RoleModel), card}},
		},
	}
}

func goodFiles() map[string]string {
	return map[string]string{
		"pump/model.onnx":    strings.Repeat("pump weights ", 20),
		"gearbox/model.onnx": strings.Repeat("gearbox weights ", 20),
		"card.txt":           "about the model\n",
	}
}

// resources lists what model.sig covers.
func resources(manifest []byte, m artifact.Manifest) []any {
	all := map[string]artifact.Digest{trust.ManifestFile: artifact.Of(manifest)}
	for _, f := range m.Files() {
		all[f.Path] = f.Digest
	}
	var out []any
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, doc{"name": name, "algorithm": "sha256", "digest": all[name].Hex()})
	}
	return out
}

func rootOf(resources []any) (digests []byte) {
	for _, r := range resources {
		raw, _ := hex.DecodeString(r.(doc)["digest"].(string))
		digests = append(digests, raw...)
	}
	return digests
}

// covering is the statement of model.sig over the given resources.
func covering(id string, resources []any) doc {
	return doc{
		"_type":         trust.StatementType,
		"subject":       []any{doc{"name": id, "digest": doc{"sha256": artifact.Of(rootOf(resources)).Hex()}}},
		"predicateType": trust.PredicateRelease,
		"predicate": doc{
			"serialization": doc{"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": []any{}},
			"resources":     resources,
		},
	}
}

// release returns a manifest's bytes and its bundle.
func (f *forge) release(t testing.TB, m artifact.Manifest) (manifest, bundle []byte) {
	t.Helper()
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return manifest, f.bundle(t, covering(m.ID(), resources(manifest, m)))
}

// published is a whole good release as files.
func (f *forge) published(t testing.TB) fstest.MapFS {
	t.Helper()
	files := goodFiles()
	m := goodManifest(files)
	manifest, bundle := f.release(t, m)
	root, err := trust.TrustedRoot(f.log.vkey)
	if err != nil {
		t.Fatal(err)
	}
	about := func(predicateType string) []byte {
		return f.bundle(t, doc{
			"_type": trust.StatementType, "predicateType": predicateType, "predicate": doc{"release": m.ID()},
			"subject": []any{
				doc{"name": "gearbox/model.onnx", "digest": doc{"sha256": artifact.Of([]byte(files["gearbox/model.onnx"])).Hex()}},
				doc{"name": "pump/model.onnx", "digest": doc{"sha256": artifact.Of([]byte(files["pump/model.onnx"])).Hex()}},
			},
		})
	}
	out := fstest.MapFS{
		trust.ManifestFile:    {Data: manifest},
		trust.SignatureFile:   {Data: bundle},
		trust.DigestsFile:     {Data: rootOf(resources(manifest, m))},
		trust.PublicKeyFile:   {Data: f.key.pem},
		trust.TrustedRootFile: {Data: root},
		trust.LineageFile:     {Data: about(trust.PredicateLineage)},
		trust.SLSAFile:        {Data: about(trust.PredicateSLSA)},
	}
	for name, content := range files {
		out[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return out
}
