// Package trust decides whether bytes from the hub may be believed. It uses
// the standard library and golang.org/x/mod only, so that an agent can carry it.
//
// The parties and their keys:
//
//   - The hub's release key (ECDSA P-256, SHA-256) signs one Sigstore bundle
//     per release, model.sig, whose statement lists manifest.json and every file
//     the manifest names, each with its SHA-256. Two more bundles by the same
//     key, for lineage and provenance, are about the model files themselves.
//   - The hub's ledger key (Ed25519) signs checkpoints of the append-only log.
//     Each bundle carries a proof that its signature is in that log, and every
//     audit event has a Receipt with the same kind of proof.
//   - The reader (an agent, swellctl, an auditor) holds Roots: the public keys
//     it was given at enrolment or by hand. No key is ever taken from what is
//     being verified.
//
// What the package promises: nothing of a payload is parsed before its
// signature holds; every size is capped; a bundle is accepted in one spelling
// only (exact media type, one signature, no unknown, doubled or re-cased key, no
// null, strict base64); a panic while reading hostile input comes out as an
// error. It leaves to others the question whether a believed release is wanted:
// the counter (artifact.Held), the device class (artifact.Manifest.Select) and
// the rollout.
//
// Both sides may import it.
package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
)

// MaxKeys bounds the number of release keys in Roots.
const MaxKeys = 16

// Roots is the root of trust of a reader. The zero value believes nothing.
type Roots struct {
	keys []Key
	log  *logKey // nil: proofs of inclusion are not asked for
}

// Key is one public release key.
type Key struct {
	Name string // for people, in errors and reports
	// Hint is the hex SHA-256 of the PEM form, as written in model.sig.
	Hint string

	derHint string // base64 SHA-256 of the DER form, as the cosign command writes it
	der     []byte
	pub     *ecdsa.PublicKey
}

// PEM returns the key as a PUBLIC KEY block, byte for byte what cosign.pub
// holds.
func (k Key) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.der})
}

// ParseRoots reads one or more PEM PUBLIC KEY blocks. A block's "Name" header,
// where there is one, names the key; otherwise its name is the first twelve
// digits of its hint. Anything but blocks of ECDSA P-256 keys is an error, and
// so is no block at all.
func ParseRoots(pemBytes []byte) (Roots, error) {
	var r Roots
	for rest := pemBytes; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return Roots{}, fmt.Errorf("read trusted keys: found a %q block: give the public key file only (cosign.pub)", block.Type)
		}
		if len(r.keys) == MaxKeys {
			return Roots{}, fmt.Errorf("read trusted keys: more than %d", MaxKeys)
		}
		k, err := parseKey(block.Bytes)
		if err != nil {
			return Roots{}, fmt.Errorf("read trusted key %d: %w", len(r.keys)+1, err)
		}
		if name := block.Headers["Name"]; name != "" {
			k.Name = name
		}
		r.keys = append(r.keys, k)
	}
	if len(r.keys) == 0 {
		return Roots{}, errors.New("read trusted keys: no PUBLIC KEY block found; give the file cosign.pub of your hub")
	}
	return r, nil
}

func parseKey(der []byte) (Key, error) {
	anyKey, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Key{}, err // the key beside an error may be a typed nil: never looked at
	}
	pub, ok := anyKey.(*ecdsa.PublicKey)
	if !ok || pub == nil || pub.Curve != elliptic.P256() {
		return Key{}, fmt.Errorf("a %T: want an ECDSA key on P-256", anyKey)
	}
	if _, err := pub.ECDH(); err != nil { // refuses points off the curve
		return Key{}, fmt.Errorf("not a point on P-256: %w", err)
	}
	k := Key{der: der, pub: pub}
	k.Hint = hexSum(k.PEM())
	sum := sha256.Sum256(der)
	k.derHint = base64.StdEncoding.EncodeToString(sum[:])
	k.Name = k.Hint[:12]
	return k, nil
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// WithLog returns roots that also demand, of every bundle, a proof that its
// signature is in the ledger with this verifier key (the form of
// golang.org/x/mod/sumdb/note: "name+hash+key").
func (r Roots) WithLog(verifierKey string) (Roots, error) {
	l, err := parseLogKey(verifierKey)
	if err != nil {
		return Roots{}, err
	}
	r.log = l
	return r, nil
}

// Keys returns the release keys in the order they were read.
func (r Roots) Keys() []Key { return append([]Key(nil), r.keys...) }

// find returns the one key a hint selects. The hint is not signed: it chooses
// which trusted key to try and does nothing else.
func (r Roots) find(hint string) (Key, error) {
	for _, k := range r.keys {
		if hint != "" && (hint == k.Hint || hint == k.derHint) {
			return k, nil
		}
	}
	return Key{}, fmt.Errorf("signed by a key this reader does not trust (hint %.16q)", hint)
}

// logKey is the ledger's public key.
type logKey struct {
	verifier note.Verifier
	text     string   // the verifier key as given
	pub      []byte   // raw Ed25519
	id       [32]byte // the whole of what the note key hash is the start of
}
