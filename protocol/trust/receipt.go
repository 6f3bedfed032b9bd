package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Limits on a receipt.
const (
	maxCheckpointBytes = 8 << 10
	maxProofHashes     = 64 // a tree of 2^63 leaves needs 63
)

// Receipt proves that a leaf is in the ledger.
type Receipt struct {
	Index uint64 `json:"index"` // of the leaf, from 0
	// Proof is the path from the leaf to the root. Empty for a log of one leaf.
	Proof tlog.RecordProof `json:"proof,omitempty"`
	// Checkpoint is the signed note (C2SP tlog-checkpoint) with the size and
	// the root of the tree the proof leads to.
	Checkpoint string `json:"checkpoint"`
}

// VerifyReceipt checks that the ledger with this verifier key has leaf at the
// receipt's index, and returns the tree the ledger vouched for, which the
// reader should remember and compare with later ones (CheckGrowth).
func VerifyReceipt(verifierKey string, leaf []byte, r Receipt) (tree tlog.Tree, err error) {
	defer noPanic(&err)
	l, err := parseLogKey(verifierKey)
	if err != nil {
		return tlog.Tree{}, err
	}
	return l.verify(leaf, r)
}

// CheckGrowth checks that the ledger's newer tree still begins with the older
// one. A zero older tree is the beginning of every tree.
func CheckGrowth(older, newer tlog.Tree, proof tlog.TreeProof) error {
	switch {
	case older.N == 0:
		return nil
	case newer.N < older.N:
		return fmt.Errorf("the ledger shrank from %d to %d entries", older.N, newer.N)
	case len(proof) > maxProofHashes:
		return fmt.Errorf("consistency proof of %d hashes is over %d", len(proof), maxProofHashes)
	}
	if newer.N == older.N {
		if newer.Hash != older.Hash {
			return fmt.Errorf("the ledger shows two histories of %d entries", newer.N)
		}
		return nil
	}
	if err := tlog.CheckTree(proof, newer.N, newer.Hash, older.N, older.Hash); err != nil {
		return fmt.Errorf("the ledger's %d entries do not begin with the %d seen before: %w", newer.N, older.N, err)
	}
	return nil
}

// OpenCheckpoint checks a signed checkpoint of the ledger with this verifier
// key and returns the tree it names.
func OpenCheckpoint(verifierKey, checkpoint string) (tlog.Tree, error) {
	l, err := parseLogKey(verifierKey)
	if err != nil {
		return tlog.Tree{}, err
	}
	return l.open(checkpoint)
}

func parseLogKey(verifierKey string) (*logKey, error) {
	v, err := note.NewVerifier(verifierKey)
	if err != nil {
		return nil, fmt.Errorf("ledger key %.60q: %w", verifierKey, err)
	}
	if !validOrigin(v.Name()) {
		return nil, fmt.Errorf("ledger name %.60q: use a-z, 0-9, '-' and '.'", v.Name())
	}
	_, tail, _ := strings.Cut(verifierKey, "+")
	_, b64, _ := strings.Cut(tail, "+")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return nil, fmt.Errorf("ledger key %.60q: want an Ed25519 key", verifierKey)
	}
	return &logKey{
		verifier: v,
		text:     verifierKey,
		pub:      raw[1:],
		id:       sha256.Sum256(append([]byte(v.Name()+"\n"), raw...)),
	}, nil
}

// validOrigin accepts the names that are the same as a note's origin line and
// as a URL's host, because Sigstore's tools take the former from the latter.
func validOrigin(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || (c == '-' || c == '.') && i > 0 && i < len(s)-1) {
			return false
		}
	}
	return s != "" && len(s) <= 200
}

func (l *logKey) verify(leaf []byte, r Receipt) (tlog.Tree, error) {
	tree, err := l.open(r.Checkpoint)
	if err != nil {
		return tlog.Tree{}, err
	}
	switch {
	case r.Index >= uint64(tree.N):
		return tlog.Tree{}, fmt.Errorf("receipt for entry %d of a ledger of %d", r.Index, tree.N)
	case len(r.Proof) > maxProofHashes:
		return tlog.Tree{}, fmt.Errorf("receipt with %d hashes is over %d", len(r.Proof), maxProofHashes)
	}
	if err := tlog.CheckRecord(r.Proof, tree.N, tree.Hash, int64(r.Index), tlog.RecordHash(leaf)); err != nil {
		return tlog.Tree{}, fmt.Errorf("entry %d is not in the ledger as shown: %w", r.Index, err)
	}
	return tree, nil
}

// open checks a checkpoint's signature and reads its three lines.
func (l *logKey) open(checkpoint string) (tlog.Tree, error) {
	if len(checkpoint) > maxCheckpointBytes {
		return tlog.Tree{}, fmt.Errorf("checkpoint of %d bytes is over %d", len(checkpoint), maxCheckpointBytes)
	}
	n, err := note.Open([]byte(checkpoint), note.VerifierList(l.verifier))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("checkpoint is not signed by ledger %s: %w", l.verifier.Name(), err)
	}
	for _, s := range n.Sigs {
		if _, err := strictBase64.DecodeString(s.Base64); err != nil {
			return tlog.Tree{}, errors.New("checkpoint signature is not strict base64")
		}
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) != 4 || lines[0] != l.verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("checkpoint is not of ledger %s", l.verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, fmt.Errorf("checkpoint size %.30q is not a plain number", lines[1])
	}
	root, err := strictBase64.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, errors.New("checkpoint root is not a hash")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}

// verify checks that the entry proves body to be in ledger l, and that every
// field of the entry agrees with what was proved.
func (e logEntry) verify(l logKey, body []byte) error {
	r := Receipt{Index: uint64(e.LogIndex), Checkpoint: e.InclusionProof.Checkpoint.Envelope}
	for _, h := range e.InclusionProof.Hashes {
		if len(h) != tlog.HashSize {
			return errors.New("a hash of the wrong length")
		}
		r.Proof = append(r.Proof, tlog.Hash(h))
	}
	tree, err := l.verify(body, r)
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(e.CanonicalizedBody, body):
		return errors.New("entry is about another signature")
	case !bytes.Equal(e.LogID.KeyID, l.id[:]):
		return errors.New("entry names another ledger")
	case e.KindVersion.Kind != "dsse" || e.KindVersion.Version != "0.0.2":
		return errors.New("entry is not of kind dsse 0.0.2")
	case e.InclusionProof.LogIndex != e.LogIndex || int64(e.InclusionProof.TreeSize) != tree.N ||
		!bytes.Equal(e.InclusionProof.RootHash, tree.Hash[:]):
		return errors.New("entry disagrees with its checkpoint")
	}
	return nil
}

// LogBody returns the ledger leaf for a signature: a Rekor v2 "dsse" entry in
// canonical JSON (RFC 8785). key is the signer's public key in DER. A verifier
// builds the same bytes from what it verified and never parses the leaf.
func LogBody(payload, sig, key []byte) []byte {
	sum := sha256.Sum256(payload)
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"apiVersion":"0.0.2","kind":"dsse","spec":{"dsseV002":{"payloadHash":{"algorithm":"SHA2_256","digest":%q},`+
		`"signatures":[{"content":%q,"verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","publicKey":{"rawBytes":%q}}}]}}}`,
		b64(sum[:]), b64(sig), b64(key))
}

// LogID returns the 32 byte identity of the ledger with this verifier key, as
// bundles name it.
func LogID(verifierKey string) ([]byte, error) {
	l, err := parseLogKey(verifierKey)
	if err != nil {
		return nil, err
	}
	return l.id[:], nil
}

// trustedRoot is the accepted form of trusted_root.json.
type trustedRoot struct {
	MediaType string           `json:"mediaType"`
	Tlogs     []trustedRootLog `json:"tlogs"`
}

type trustedRootLog struct {
	BaseURL       string `json:"baseUrl"`
	HashAlgorithm string `json:"hashAlgorithm"`
	PublicKey     struct {
		RawBytes   []byte `json:"rawBytes"`
		KeyDetails string `json:"keyDetails"`
		ValidFor   struct {
			Start string `json:"start"`
		} `json:"validFor"`
	} `json:"publicKey"`
	LogID struct {
		KeyID []byte `json:"keyId"`
	} `json:"logId"`
}

// TrustedRoot returns trusted_root.json for the ledger with this verifier key:
// what the stock cosign command needs to check a bundle's ledger proof without
// a network. The key has no end of validity; it is replaced by naming another.
func TrustedRoot(verifierKey string) ([]byte, error) {
	l, err := parseLogKey(verifierKey)
	if err != nil {
		return nil, err
	}
	return l.trustedRoot()
}

func (l *logKey) trustedRoot() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(l.pub))
	if err != nil {
		return nil, fmt.Errorf("write trusted root: %w", err)
	}
	var t trustedRootLog
	t.BaseURL = "https://" + l.verifier.Name()
	t.HashAlgorithm = "SHA2_256"
	t.PublicKey.RawBytes = der
	t.PublicKey.KeyDetails = "PKIX_ED25519"
	t.PublicKey.ValidFor.Start = "1970-01-01T00:00:00Z"
	t.LogID.KeyID = l.id[:]
	return json.Marshal(trustedRoot{
		MediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		Tlogs:     []trustedRootLog{t},
	})
}

// parseTrustedRoot returns the ledger key that a trusted_root.json written by
// TrustedRoot names. Any other byte sequence is refused.
func parseTrustedRoot(b []byte) (*logKey, error) {
	if len(b) > maxCheckpointBytes {
		return nil, fmt.Errorf("trusted_root.json of %d bytes is over %d", len(b), maxCheckpointBytes)
	}
	var t trustedRoot
	if err := json.Unmarshal(b, &t); err != nil || len(t.Tlogs) != 1 {
		return nil, errors.New("trusted_root.json does not name one ledger")
	}
	anyKey, err := x509.ParsePKIXPublicKey(t.Tlogs[0].PublicKey.RawBytes)
	if err != nil {
		return nil, fmt.Errorf("key in trusted_root.json: %w", err)
	}
	pub, ok := anyKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key in trusted_root.json is a %T: want Ed25519", anyKey)
	}
	vkey, err := note.NewEd25519VerifierKey(strings.TrimPrefix(t.Tlogs[0].BaseURL, "https://"), pub)
	if err != nil {
		return nil, fmt.Errorf("key in trusted_root.json: %w", err)
	}
	l, err := parseLogKey(vkey)
	if err != nil {
		return nil, err
	}
	if want, err := l.trustedRoot(); err != nil || !bytes.Equal(b, want) {
		return nil, errors.New("trusted_root.json is not in its one accepted form")
	}
	return l, nil
}
