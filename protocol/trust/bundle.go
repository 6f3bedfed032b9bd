package trust

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/swellfleet/swell/protocol/artifact"
)

// The fixed strings of the formats, and the cap on a bundle.
const (
	BundleMediaType  = "application/vnd.dev.sigstore.bundle.v0.3+json"
	PayloadType      = "application/vnd.in-toto+json"
	StatementType    = "https://in-toto.io/Statement/v1"
	PredicateRelease = "https://model_signing/signature/v1.0" // model.sig, OpenSSF Model Signing
	PredicateLineage = "https://swellfleet.github.io/lineage/v1"
	PredicateSLSA    = "https://slsa.dev/provenance/v1"

	// MaxBundleBytes caps a bundle. A release at the manifest's own cap needs
	// less than two thirds of it.
	MaxBundleBytes = 4 << 20
)

var strictBase64 = base64.StdEncoding.Strict()

// bundle is the accepted subset of a Sigstore bundle v0.3.
type bundle struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
		TlogEntries []logEntry `json:"tlogEntries"`
	} `json:"verificationMaterial"`
	DSSEEnvelope struct {
		Payload     base64Bytes `json:"payload"`
		PayloadType string      `json:"payloadType"`
		Signatures  []struct {
			Sig base64Bytes `json:"sig"`
		} `json:"signatures"`
	} `json:"dsseEnvelope"`
}

// logEntry is a Rekor v2 transparency log entry as the bundle spells it: 64 bit
// numbers are strings and zeroes are left out.
type logEntry struct {
	LogIndex decimal `json:"logIndex"`
	LogID    struct {
		KeyID base64Bytes `json:"keyId"`
	} `json:"logId"`
	KindVersion struct {
		Kind    string `json:"kind"`
		Version string `json:"version"`
	} `json:"kindVersion"`
	InclusionProof struct {
		LogIndex   decimal       `json:"logIndex"`
		RootHash   base64Bytes   `json:"rootHash"`
		TreeSize   decimal       `json:"treeSize"`
		Hashes     []base64Bytes `json:"hashes"`
		Checkpoint struct {
			Envelope string `json:"envelope"`
		} `json:"checkpoint"`
	} `json:"inclusionProof"`
	CanonicalizedBody base64Bytes `json:"canonicalizedBody"`
}

var bundleKeys = keySet("mediaType", "verificationMaterial", "publicKey", "hint", "tlogEntries",
	"dsseEnvelope", "payload", "payloadType", "signatures", "sig",
	"logIndex", "logId", "keyId", "kindVersion", "kind", "version",
	"inclusionProof", "rootHash", "treeSize", "hashes", "checkpoint", "envelope", "canonicalizedBody")

// decimal is a non-negative number in a JSON string, without leading zeroes.
type decimal int64

func (n *decimal) UnmarshalJSON(p []byte) error {
	var s string
	if err := json.Unmarshal(p, &s); err != nil {
		return err
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < 0 || strconv.FormatInt(v, 10) != s {
		return fmt.Errorf("%.30q is not a plain non-negative number", s)
	}
	*n = decimal(v)
	return nil
}

// Statement is what a verified bundle says.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject is one thing a statement is about.
type Subject struct {
	Name   string `json:"name"`
	Digest struct {
		SHA256 string `json:"sha256"`
	} `json:"digest"`
}

// openBundle returns the payload of a bundle whose one signature holds under a
// trusted key. Only the envelope has been parsed.
func openBundle(roots Roots, b []byte) (payload []byte, key Key, err error) {
	if len(b) > MaxBundleBytes {
		return nil, Key{}, fmt.Errorf("bundle of %d bytes is over %d", len(b), MaxBundleBytes)
	}
	var env bundle
	if err := strictJSON(b, bundleKeys, &env); err != nil {
		return nil, Key{}, fmt.Errorf("read bundle: %w", err)
	}
	switch {
	case env.MediaType != BundleMediaType:
		return nil, Key{}, fmt.Errorf("bundle media type %.80q: want %s", env.MediaType, BundleMediaType)
	case env.DSSEEnvelope.PayloadType != PayloadType:
		return nil, Key{}, fmt.Errorf("payload type %.80q: want %s", env.DSSEEnvelope.PayloadType, PayloadType)
	case len(env.DSSEEnvelope.Signatures) != 1:
		return nil, Key{}, fmt.Errorf("bundle has %d signatures: want exactly one", len(env.DSSEEnvelope.Signatures))
	}
	key, err = roots.find(env.VerificationMaterial.PublicKey.Hint)
	if err != nil {
		return nil, Key{}, err
	}
	sig := env.DSSEEnvelope.Signatures[0].Sig
	sum := sha256.Sum256(PAE(env.DSSEEnvelope.Payload))
	if !ecdsa.VerifyASN1(key.pub, sum[:], sig) {
		return nil, Key{}, fmt.Errorf("signature does not hold under key %s", key.Name)
	}
	if roots.log != nil {
		entries := env.VerificationMaterial.TlogEntries
		if len(entries) != 1 {
			return nil, Key{}, fmt.Errorf("bundle has %d ledger proofs: want exactly one", len(entries))
		}
		if err := entries[0].verify(*roots.log, LogBody(env.DSSEEnvelope.Payload, sig, key.der)); err != nil {
			return nil, Key{}, fmt.Errorf("ledger proof in bundle: %w", err)
		}
	}
	return env.DSSEEnvelope.Payload, key, nil
}

// PAE returns the bytes that a signature over an in-toto payload is made of:
// the pre-authentication encoding of DSSE v1.
func PAE(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(PayloadType), PayloadType, len(payload), payload)
}

// parseStatement reads a payload whose signature holds.
func parseStatement(payload []byte, allowed map[string]bool, predicateType string) (Statement, error) {
	var s Statement
	if err := strictJSON(payload, allowed, &s); err != nil {
		return Statement{}, fmt.Errorf("read statement: %w", err)
	}
	switch {
	case s.Type != StatementType:
		return Statement{}, fmt.Errorf("statement type %.80q: want %s", s.Type, StatementType)
	case s.PredicateType != predicateType:
		return Statement{}, fmt.Errorf("predicate type %.80q: want %s", s.PredicateType, predicateType)
	case len(s.Subject) == 0:
		return Statement{}, errors.New("statement about nothing")
	}
	for _, sub := range s.Subject {
		if err := artifact.Digest("sha256:" + sub.Digest.SHA256).Validate(); err != nil {
			return Statement{}, fmt.Errorf("subject %.80q: %w", sub.Name, err)
		}
	}
	return s, nil
}

// VerifyBlob returns the statement of a bundle of the given predicate type that
// is signed by a trusted key and is about a file with the given digest. It is
// the check behind model.lineage.sigstore.json and model.slsa.sigstore.json.
func VerifyBlob(roots Roots, bundle []byte, predicateType string, about artifact.Digest) (s Statement, err error) {
	defer noPanic(&err)
	payload, _, err := openBundle(roots, bundle)
	if err != nil {
		return Statement{}, err
	}
	s, err = parseStatement(payload, nil, predicateType)
	if err != nil {
		return Statement{}, err
	}
	for _, sub := range s.Subject {
		if about.Hex() != "" && sub.Digest.SHA256 == about.Hex() {
			return s, nil
		}
	}
	return Statement{}, fmt.Errorf("bundle is not about %s", about.Short())
}

// noPanic turns a panic on hostile input into an error, so that an agent that
// meets a bug here refuses one release and keeps running.
func noPanic(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("verifier failed on this input: %v", p)
	}
}
