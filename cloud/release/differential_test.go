package release_test

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	sigstorebundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/swellfleet/swell/cloud/release/signing"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// sigstoreGo is the other opinion on a bundle: the library behind the cosign
// command, with the same key and the same ledger.
type sigstoreGo struct {
	material root.TrustedMaterialCollection
}

func newSigstoreGo(t *testing.T, h *house) sigstoreGo {
	t.Helper()
	b, err := trust.TrustedRoot(h.ledger.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	tr, err := root.NewTrustedRootFromJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(h.key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	key := root.NewExpiringKey(v, time.Time{}, time.Time{})
	keys := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })
	return sigstoreGo{root.TrustedMaterialCollection{tr, keys}}
}

func (s sigstoreGo) verify(b []byte, about artifact.Digest) (err error) {
	defer func() {
		if p := recover(); p != nil { // its parsers do panic on some input
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	var parsed sigstorebundle.Bundle
	if err := parsed.UnmarshalJSON(b); err != nil {
		return err
	}
	v, err := verify.NewVerifier(s.material, verify.WithTransparencyLog(1), verify.WithNoObserverTimestamps())
	if err != nil {
		return err
	}
	raw, err := hex.DecodeString(about.Hex())
	if err != nil {
		return err
	}
	_, err = v.Verify(&parsed, verify.NewPolicy(verify.WithArtifactDigest("sha256", raw), verify.WithKey()))
	return err
}

type doc = map[string]any

// TestWhateverWeBelieveSigstoreBelieves compares the agent's verifier with
// sigstore-go on bundles that were changed in every part, and asks that ours is
// never the more credulous. Where it is the stricter one, the table says so.
func TestWhateverWeBelieveSigstoreBelieves(t *testing.T) {
	h := newHouse(t)
	oracle := newSigstoreGo(t, h)
	roots := h.builder.Roots()
	model := artifact.Of([]byte("a model"))
	statement := func(change func(doc)) []byte {
		s := doc{
			"_type": trust.StatementType, "predicateType": trust.PredicateLineage, "predicate": doc{"run": "night-1"},
			"subject": []any{doc{"name": "model.onnx", "digest": doc{"sha256": model.Hex()}}},
		}
		if change != nil {
			change(s)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sign := func(payload []byte) []byte {
		b, err := signing.Sign(t.Context(), h.key, h.ledger, payload)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	change := func(b []byte, change func(doc)) []byte {
		var d doc
		if err := json.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
		change(d)
		out, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ours := func(b []byte) error {
		_, err := trust.VerifyBlob(roots, b, trust.PredicateLineage, model)
		return err
	}

	good := sign(statement(nil))
	other := sign(statement(func(s doc) { s["predicate"] = doc{"run": "night-2"} }))
	var otherDoc doc
	if err := json.Unmarshal(other, &otherDoc); err != nil {
		t.Fatal(err)
	}
	material := func(d doc) doc { return d["verificationMaterial"].(doc) }
	entry := func(d doc) doc { return material(d)["tlogEntries"].([]any)[0].(doc) }
	proof := func(d doc) doc { return entry(d)["inclusionProof"].(doc) }
	envelope := func(d doc) doc { return d["dsseEnvelope"].(doc) }

	const stricter = true // sigstore-go accepts it, we do not
	for _, c := range []struct {
		name     string
		bundle   []byte
		stricter bool
	}{
		{"another signature", change(good, func(d doc) { envelope(d)["signatures"] = envelope(otherDoc)["signatures"] }), false},
		{"another payload", change(good, func(d doc) { envelope(d)["payload"] = envelope(otherDoc)["payload"] }), false},
		{"another payload type", change(good, func(d doc) { envelope(d)["payloadType"] = "text/plain" }), false},
		{"no signature", change(good, func(d doc) { envelope(d)["signatures"] = []any{} }), false},
		{"two signatures", change(good, func(d doc) {
			s := envelope(d)["signatures"].([]any)
			envelope(d)["signatures"] = append(s, s[0])
		}), false},
		{"a media type of the old form", change(good, func(d doc) { d["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.3" }), stricter},
		{"a later media type", change(good, func(d doc) { d["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.4+json" }), false},
		{"no media type", change(good, func(d doc) { delete(d, "mediaType") }), false},
		{"a foreign hint", change(good, func(d doc) { material(d)["publicKey"] = doc{"hint": "someone"} }), stricter},
		{"no key named", change(good, func(d doc) { delete(material(d), "publicKey") }), false},
		{"no ledger proof", change(good, func(d doc) { delete(material(d), "tlogEntries") }), false},
		{"another bundle's ledger proof", change(good, func(d doc) { material(d)["tlogEntries"] = material(otherDoc)["tlogEntries"] }), false},
		{"another index", change(good, func(d doc) { entry(d)["logIndex"] = "7" }), false},
		{"another index inside the proof alone", change(good, func(d doc) { proof(d)["logIndex"] = "7" }), stricter},
		{"another size in the proof alone", change(good, func(d doc) { proof(d)["treeSize"] = "77" }), stricter},
		{"another ledger", change(good, func(d doc) { entry(d)["logId"] = doc{"keyId": "AAAA"} }), false},
		{"another body", change(good, func(d doc) { entry(d)["canonicalizedBody"] = entry(otherDoc)["canonicalizedBody"] }), false},
		{"an unsigned checkpoint", change(good, func(d doc) {
			text, _, _ := strings.Cut(proof(d)["checkpoint"].(doc)["envelope"].(string), "\n\n")
			proof(d)["checkpoint"] = doc{"envelope": text + "\n\n"}
		}), false},
		{"an unknown field", change(good, func(d doc) { d["extra"] = "x" }), false},
		{"a key id beside the signature", change(good, func(d doc) { envelope(d)["signatures"].([]any)[0].(doc)["keyid"] = "x" }), false},
		{"a statement of v0.1", sign(statement(func(s doc) { s["_type"] = "https://in-toto.io/Statement/v0.1" })), stricter},
		{"another predicate type", sign(statement(func(s doc) { s["predicateType"] = trust.PredicateSLSA })), stricter},
		{"about another file", sign(statement(func(s doc) {
			s["subject"] = []any{doc{"name": "model.onnx", "digest": doc{"sha256": strings.Repeat("0", 64)}}}
		})), false},
		{"about nothing", sign(statement(func(s doc) { s["subject"] = []any{} })), false},
		{"a payload that is not a statement", sign([]byte(`{"hello":"world"}`)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			mine, theirs := ours(c.bundle), oracle.verify(c.bundle, model)
			if mine == nil {
				t.Error("we believe it")
			}
			if (theirs == nil) != c.stricter {
				t.Errorf("sigstore-go: %v; the table says it accepts: %t", theirs, c.stricter)
			}
		})
	}

	t.Run("the good one", func(t *testing.T) {
		if err := errors.Join(ours(good), oracle.verify(good, model)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("random changes of bytes", func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		credulous, stricter := 0, 0
		for range 1500 {
			bad := bytes.Clone(good)
			for range 1 + rng.IntN(2) {
				bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
			}
			if bytes.Equal(bad, good) {
				continue
			}
			mine, theirs := ours(bad), oracle.verify(bad, model)
			switch {
			case mine == nil && theirs != nil:
				credulous++
				t.Errorf("we believe what sigstore-go refuses (%v): %s", theirs, bad)
			case mine != nil && theirs == nil:
				stricter++
			}
		}
		t.Logf("of 1500 changed bundles sigstore-go alone accepts %d, we alone %d", stricter, credulous)
	})
}
