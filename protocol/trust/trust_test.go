package trust_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

func TestAGoodReleaseIsBelieved(t *testing.T) {
	f := newForge(t)
	want := goodManifest(goodFiles())
	manifest, bundle := f.release(t, want)
	withLog, err := f.key.roots(t).WithLog(f.log.vkey)
	if err != nil {
		t.Fatal(err)
	}
	for name, roots := range map[string]trust.Roots{"by its key": f.key.roots(t), "by its key and its ledger": withLog} {
		got, err := trust.VerifyRelease(roots, bundle, manifest)
		if err != nil || got.ID() != want.ID() {
			t.Errorf("%s: %v, %v", name, got.ID(), err)
		}
	}
}

// TestHostileBundlesAreRefused is section 1 of the inputs to survive.
func TestHostileBundlesAreRefused(t *testing.T) {
	stranger := newSigner(t)
	sigs := func(b doc) doc { return b["dsseEnvelope"].(doc) }
	derSig := func(r, s *big.Int) string {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		if err != nil {
			t.Fatal(err)
		}
		return b64(der)
	}
	setSig := func(sig string) func(doc) {
		return func(b doc) { sigs(b)["signatures"] = []any{doc{"sig": sig}} }
	}
	predicate := func(s doc) doc { return s["predicate"].(doc) }
	for _, c := range []struct {
		name string
		why  string // part of the reason
		make func(*forge)
	}{
		{"signed by another key under our hint", "does not hold", func(f *forge) {
			hint := f.key.hint()
			f.key = stranger
			f.envelope = func(b doc) { b["verificationMaterial"].(doc)["publicKey"] = doc{"hint": hint} }
		}},
		{"signed by another key under its own hint", "does not trust", func(f *forge) { f.key = stranger }},
		{"empty hint", "does not trust", func(f *forge) {
			f.envelope = func(b doc) { b["verificationMaterial"].(doc)["publicKey"] = doc{"hint": ""} }
		}},
		{"the key itself in the bundle", "unexpected key", func(f *forge) {
			f.envelope = func(b doc) { b["verificationMaterial"].(doc)["publicKey"] = doc{"rawBytes": b64(f.key.der)} }
		}},
		{"a certificate in the bundle", "unexpected key", func(f *forge) {
			f.envelope = func(b doc) { b["verificationMaterial"].(doc)["certificate"] = doc{"rawBytes": b64(f.key.der)} }
		}},
		{"no signature", "0 signatures", func(f *forge) {
			f.envelope = func(b doc) { sigs(b)["signatures"] = []any{} }
		}},
		{"two signatures, both good", "2 signatures", func(f *forge) {
			f.envelope = func(b doc) {
				s := sigs(b)["signatures"].([]any)
				sigs(b)["signatures"] = append(s, s[0])
			}
		}},
		{"an empty signature", "does not hold", func(f *forge) { f.envelope = setSig("") }},
		{"r = s = 0", "does not hold", func(f *forge) { f.envelope = setSig(derSig(new(big.Int), new(big.Int))) }},
		{"r = s = 1", "does not hold", func(f *forge) { f.envelope = setSig(derSig(big.NewInt(1), big.NewInt(1))) }},
		{"r and s of the group's order", "does not hold", func(f *forge) {
			n := elliptic.P256().Params().N
			f.envelope = setSig(derSig(n, n))
		}},
		{"r and s negative", "does not hold", func(f *forge) { f.envelope = setSig(derSig(big.NewInt(-5), big.NewInt(-5))) }},
		{"another payload type outside", "payload type", func(f *forge) {
			f.envelope = func(b doc) { sigs(b)["payloadType"] = "application/json" }
		}},
		{"another media type", "media type", func(f *forge) {
			f.envelope = func(b doc) { b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.3" }
		}},
		{"a later media type", "media type", func(f *forge) {
			f.envelope = func(b doc) { b["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.4+json" }
		}},
		{"another predicate type", "predicate type", func(f *forge) {
			f.statement = func(s doc) { s["predicateType"] = trust.PredicateLineage }
		}},
		{"another statement type", "statement type", func(f *forge) {
			f.statement = func(s doc) { s["_type"] = "https://in-toto.io/Statement/v0.1" }
		}},
		{"no subject", "about nothing", func(f *forge) { f.statement = func(s doc) { s["subject"] = []any{} } }},
		{"two subjects", "subject", func(f *forge) {
			f.statement = func(s doc) { s["subject"] = append(s["subject"].([]any), s["subject"].([]any)[0]) }
		}},
		{"a subject that is not the hash of the list", "subject", func(f *forge) {
			f.statement = func(s doc) {
				s["subject"].([]any)[0].(doc)["digest"] = doc{"sha256": strings.Repeat("0", 64)}
			}
		}},
		{"a subject of another name", "names release", func(f *forge) {
			f.statement = func(s doc) { s["subject"].([]any)[0].(doc)["name"] = "pump-anomaly-8" }
		}},
		{"resources out of order", "not sorted", func(f *forge) {
			f.statement = func(s doc) {
				r := predicate(s)["resources"].([]any)
				r[0], r[1] = r[1], r[0]
			}
		}},
		{"a resource twice", "doubled", func(f *forge) {
			f.statement = func(s doc) {
				r := predicate(s)["resources"].([]any)
				predicate(s)["resources"] = append(r, r[len(r)-1])
			}
		}},
		{"a resource of another hash", "sha256", func(f *forge) {
			f.statement = func(s doc) { predicate(s)["resources"].([]any)[0].(doc)["algorithm"] = "blake2b" }
		}},
		{"hashed by blocks", "whole files", func(f *forge) {
			f.statement = func(s doc) { predicate(s)["serialization"].(doc)["method"] = "shards" }
		}},
		{"symbolic links allowed", "symbolic links", func(f *forge) {
			f.statement = func(s doc) { predicate(s)["serialization"].(doc)["allow_symlinks"] = true }
		}},
		{"an unknown key outside", "unexpected key", func(f *forge) { f.envelope = func(b doc) { b["extra"] = 1 } }},
		{"a key in another case outside", "unexpected key", func(f *forge) {
			f.envelope = func(b doc) { b["MediaType"] = b["mediaType"]; delete(b, "mediaType") }
		}},
		{"an unknown key inside", "unexpected key", func(f *forge) { f.statement = func(s doc) { s["extra"] = 1 } }},
		{"a null outside", "null", func(f *forge) { f.envelope = func(b doc) { b["dsseEnvelope"] = nil } }},
		{"a null inside", "null", func(f *forge) { f.statement = func(s doc) { s["predicate"] = nil } }},
		{"a doubled key inside", "twice", func(f *forge) {
			f.payload = func(p []byte) []byte { return bytes.Replace(p, []byte(`{`), []byte(`{"_type":"x",`), 1) }
		}},
		{"bytes after the statement", "after the document", func(f *forge) {
			f.payload = func(p []byte) []byte { return append(p, " {}"...) }
		}},
		{"a signed payload that is not JSON", "read statement", func(f *forge) {
			f.payload = func([]byte) []byte { return []byte("<html>") }
		}},
		{"a signed empty payload", "empty", func(f *forge) { f.payload = func([]byte) []byte { return nil } }},
		{"a payload in URL-safe base64", "read bundle", func(f *forge) {
			f.envelope = func(b doc) { sigs(b)["payload"] = strings.TrimRight(sigs(b)["payload"].(string), "=") + "_-" }
		}},
		{"a payload with line breaks", "line breaks", func(f *forge) {
			f.envelope = func(b doc) { sigs(b)["payload"] = "\n" + sigs(b)["payload"].(string) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newForge(t)
			roots := f.key.roots(t)
			c.make(f)
			manifest, bundle := f.release(t, goodManifest(goodFiles()))
			if m, err := trust.VerifyRelease(roots, bundle, manifest); err == nil || !strings.Contains(err.Error(), c.why) {
				t.Fatalf("gave %q, %v; want an error about %q", m.ID(), err, c.why)
			}
		})
	}
}

func TestBytesThatAreNoBundleAreRefused(t *testing.T) {
	f := newForge(t)
	manifest, bundle := f.release(t, goodManifest(goodFiles()))
	roots := f.key.roots(t)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(bundle); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	deep := func(open, end string) []byte {
		return []byte(strings.Repeat(open, 100_000) + strings.Repeat(end, 100_000))
	}
	for name, b := range map[string][]byte{
		"nothing":             nil,
		"null":                []byte("null"),
		"an empty object":     []byte("{}"),
		"an array":            []byte("[]"),
		"a string":            []byte(`"bundle"`),
		"HTML":                []byte("<!doctype html><title>502</title>"),
		"gzip":                zipped.Bytes(),
		"100 000 deep arrays": deep("[", "]"),
		"100 000 deep keys":   deep(`{"payload":`, "}"),
		"a doubled key":       bytes.Replace(bundle, []byte(`{"dsseEnvelope"`), []byte(`{"mediaType":"x","dsseEnvelope"`), 1),
		"not UTF-8":           bytes.Replace(bundle, []byte(`"dsse"`), []byte("\"ds\xffse\""), 1),
		"two bundles":         append(bytes.Clone(bundle), bundle...),
		"over the cap":        append(bytes.Repeat([]byte(" "), trust.MaxBundleBytes), bundle...),
		"a byte order mark":   append([]byte("\ufeff"), bundle...),
	} {
		if _, err := trust.VerifyRelease(roots, b, manifest); err == nil {
			t.Errorf("%s was believed", name)
		}
	}
	for cut := range bundle {
		if _, err := trust.VerifyRelease(roots, bundle[:cut], manifest); err == nil {
			t.Errorf("the first %d bytes were believed", cut)
		}
	}
}

func TestABundleOfAnotherReleaseOrPurposeIsRefused(t *testing.T) {
	f := newForge(t)
	manifest, _ := f.release(t, goodManifest(goodFiles()))
	other := goodManifest(goodFiles())
	other.Counter++
	_, otherBundle := f.release(t, other)
	if _, err := trust.VerifyRelease(f.key.roots(t), otherBundle, manifest); err == nil {
		t.Error("another release's bundle was believed")
	}
	lineage := f.published(t)[trust.LineageFile].Data
	if _, err := trust.VerifyRelease(f.key.roots(t), lineage, manifest); err == nil {
		t.Error("a lineage bundle was believed as a release's")
	}
	if _, err := trust.VerifyBlob(f.key.roots(t), lineage, trust.PredicateSLSA, artifact.Of([]byte(goodFiles()["pump/model.onnx"]))); err == nil {
		t.Error("a lineage bundle was believed as provenance")
	}
	if _, err := trust.VerifyBlob(f.key.roots(t), lineage, trust.PredicateLineage, artifact.Of([]byte("other model"))); err == nil {
		t.Error("a lineage bundle was believed about another model")
	}
	if _, err := trust.VerifyBlob(f.key.roots(t), lineage, trust.PredicateLineage, ""); err == nil {
		t.Error("a lineage bundle was believed about no model")
	}
}

func TestARemovedKeyNoLongerVerifies(t *testing.T) {
	f := newForge(t)
	manifest, bundle := f.release(t, goodManifest(goodFiles()))
	next := newSigner(t)
	both, err := trust.ParseRoots(append(bytes.Clone(f.key.pem), next.pem...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyRelease(both, bundle, manifest); err != nil {
		t.Errorf("during the change of keys: %v", err)
	}
	if _, err := trust.VerifyRelease(next.roots(t), bundle, manifest); err == nil {
		t.Error("a release by the key that was removed was believed")
	}
	if _, err := trust.VerifyRelease(trust.Roots{}, bundle, manifest); err == nil {
		t.Error("roots without any key believed a release")
	}
}

func TestOnlyP256KeysAreRoots(t *testing.T) {
	block := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := newSigner(t)
	offCurve := bytes.Clone(good.der)
	offCurve[len(offCurve)-1] ^= 1
	private, err := x509.MarshalPKCS8PrivateKey(good.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"P-384":             block(&p384.PublicKey),
		"RSA":               block(&rsaKey.PublicKey),
		"Ed25519":           block(ed),
		"off the curve":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: offCurve}),
		"garbage":           pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("garbage")}),
		"nothing":           nil,
		"text":              []byte("not a key"),
		"a private key":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"too many keys":     bytes.Repeat(good.pem, trust.MaxKeys+1),
		"a good and a P384": append(bytes.Clone(good.pem), block(&p384.PublicKey)...),
	} {
		if _, err := trust.ParseRoots(b); err == nil {
			t.Errorf("%s was taken as a root of trust", name)
		}
	}
	named := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{"Name": "plant-a"}, Bytes: good.der})
	roots, err := trust.ParseRoots(named)
	if err != nil || roots.Keys()[0].Name != "plant-a" || !bytes.Equal(roots.Keys()[0].PEM(), good.pem) {
		t.Errorf("named key: %+v, %v", roots.Keys(), err)
	}
}

// TestAReleaseThatDoesNotCoverItsManifestIsRefused is the part of section 2
// that is decided before any file is read.
func TestAReleaseThatDoesNotCoverItsManifestIsRefused(t *testing.T) {
	m := goodManifest(goodFiles())
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	drop := func(r []any, name string) []any {
		var out []any
		for _, e := range r {
			if e.(doc)["name"] != name {
				out = append(out, e)
			}
		}
		return out
	}
	for _, c := range []struct {
		name      string
		resources func([]any) []any
	}{
		{"a file of the manifest is missing", func(r []any) []any { return drop(r, "pump/model.onnx") }},
		{"the manifest is missing", func(r []any) []any { return drop(r, trust.ManifestFile) }},
		{"one more file is signed", func(r []any) []any {
			return append(r, doc{"name": "zz.so", "algorithm": "sha256", "digest": artifact.Of([]byte("x")).Hex()})
		}},
		{"a file has another digest", func(r []any) []any {
			r[0].(doc)["digest"] = artifact.Of([]byte("other")).Hex()
			return r
		}},
		{"the manifest has another digest", func(r []any) []any {
			return append(drop(r[:2:2], trust.ManifestFile), append([]any{doc{"name": trust.ManifestFile, "algorithm": "sha256", "digest": artifact.Of([]byte("other")).Hex()}}, drop(r[2:], trust.ManifestFile)...)...)
		}},
		{"nothing is signed", func([]any) []any { return []any{} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newForge(t)
			bundle := f.bundle(t, covering(m.ID(), c.resources(resources(manifest, m))))
			if _, err := trust.VerifyRelease(f.key.roots(t), bundle, manifest); err == nil {
				t.Fatal("was believed")
			}
		})
	}
}

// TestHostileNamesInASignedListAreRefused is section 3, for a key holder who
// went bad.
func TestHostileNamesInASignedListAreRefused(t *testing.T) {
	m := goodManifest(goodFiles())
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"../up", "a/../../up", "/etc/passwd", `c:\windows`, `C:\windows`, "a\x00b", "a\nb", ".hidden", "a/.hidden", "trailing.",
		"trailing ", "", ".", "..", "a//b", "a/", "./a", "Model.onnx", "modèle.onnx", "a\u202eb", strings.Repeat("a", artifact.MaxPathLen+1),
	} {
		f := newForge(t)
		r := resources(manifest, m)
		r = append([]any{doc{"name": name, "algorithm": "sha256", "digest": artifact.Of(nil).Hex()}}, r...)
		if _, err := trust.VerifyRelease(f.key.roots(t), f.bundle(t, covering(m.ID(), r)), manifest); err == nil {
			t.Errorf("a list with the name %q was believed", name)
		}
	}
}

func TestASignedManifestThatIsNotCanonicalIsRefused(t *testing.T) {
	m := goodManifest(goodFiles())
	good, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, manifest := range map[string][]byte{
		"spaces":             append([]byte(" "), good...),
		"a doubled key":      bytes.Replace(good, []byte(`{"schema":1`), []byte(`{"schema":2,"schema":1`), 1),
		"a key re-cased":     bytes.Replace(good, []byte(`"schema"`), []byte(`"Schema"`), 1),
		"an unknown key":     bytes.Replace(good, []byte(`{"schema":1`), []byte(`{"schema":1,"x":1`), 1),
		"another order":      bytes.Replace(good, []byte(`{"schema":1,"kind":"model"`), []byte(`{"kind":"model","schema":1`), 1),
		"bytes after":        append(bytes.Clone(good), '\n'),
		"null":               []byte("null"),
		"over the cap":       append(bytes.Clone(good), bytes.Repeat([]byte(" "), artifact.MaxManifestBytes)...),
		"an escaped letter":  bytes.Replace(good, []byte(`"pump"`), []byte(`"\u0070ump"`), 1),
		"another time zone":  bytes.Replace(good, []byte(`03:00:00Z`), []byte(`04:00:00+01:00`), 1),
		"a fraction of time": bytes.Replace(good, []byte(`03:00:00Z`), []byte(`03:00:00.5Z`), 1),
	} {
		if bytes.Equal(manifest, good) {
			t.Fatalf("%s: the case changes nothing", name)
		}
		f := newForge(t)
		bundle := f.bundle(t, covering(m.ID(), resources(manifest, m)))
		if _, err := trust.VerifyRelease(f.key.roots(t), bundle, manifest); err == nil {
			t.Errorf("a manifest with %s was believed", name)
		}
	}
}
