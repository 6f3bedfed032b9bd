// Package signing makes the hub's signatures: it holds the release key and
// writes Sigstore bundles. It is the only package that links cosign, and
// cloud/release is the only one that should import it beside the hub, which
// opens the key.
//
// The parties are the key's owner (the operator, who keeps its password), the
// ledger, where every signature is recorded before the bundle that carries it
// is handed out, and the verifiers: protocol/trust on devices and the stock
// cosign command at a customer's.
//
// It promises that what it returns verifies: each bundle holds one signature by
// the key, over exactly the statement given, with the ledger's proof inside. It
// leaves to its callers what the statement says.
package signing

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	cosignbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/swellfleet/swell/protocol/trust"
)

// Signer signs with one ECDSA P-256 key. KeyPair is the default; a key in a KMS
// or an HSM is another.
type Signer interface {
	// Sign returns the ASN.1 signature over the SHA-256 of message.
	Sign(ctx context.Context, message []byte) ([]byte, error)
	// PublicKey returns the key's PEM PUBLIC KEY block, the same at every call.
	PublicKey() []byte
}

// Log records signatures; see ledger.Log.
type Log interface {
	AppendSignature(ctx context.Context, body []byte) (trust.Receipt, error)
	VerifierKey() string
}

// Sign signs an in-toto statement (JSON), records the signature in log and
// returns the Sigstore bundle v0.3 that carries both.
func Sign(ctx context.Context, s Signer, log Log, statement []byte) ([]byte, error) {
	der, err := publicDER(s.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	sig, err := s.Sign(ctx, trust.PAE(statement))
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	body := trust.LogBody(statement, sig, der)
	receipt, err := log.AppendSignature(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("record signature: %w", err)
	}
	entry, err := logEntry(log.VerifierKey(), body, receipt)
	if err != nil {
		return nil, fmt.Errorf("record signature: %w", err)
	}
	sum := sha256.Sum256(s.PublicKey())
	b, err := cosignbundle.MakeProtobufBundle(hex.EncodeToString(sum[:]), nil, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	b.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		Payload:     statement,
		PayloadType: types.IntotoPayloadType,
		Signatures:  []*protodsse.Signature{{Sig: sig}},
	}}
	spaced, err := protojson.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	// protojson varies its spacing from build to build on purpose.
	var compact bytes.Buffer
	if err := json.Compact(&compact, spaced); err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	return compact.Bytes(), nil
}

// logEntry writes a receipt in the form Rekor v2 gives one.
func logEntry(verifierKey string, body []byte, r trust.Receipt) (*protorekor.TransparencyLogEntry, error) {
	tree, err := trust.VerifyReceipt(verifierKey, body, r)
	if err != nil {
		return nil, err
	}
	id, err := trust.LogID(verifierKey)
	if err != nil {
		return nil, err
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:    int64(r.Index),
		LogId:       &protocommon.LogId{KeyId: id},
		KindVersion: &protorekor.KindVersion{Kind: "dsse", Version: "0.0.2"},
		InclusionProof: &protorekor.InclusionProof{
			LogIndex:   int64(r.Index),
			RootHash:   tree.Hash[:],
			TreeSize:   tree.N,
			Hashes:     asBytes(r.Proof),
			Checkpoint: &protorekor.Checkpoint{Envelope: r.Checkpoint},
		},
		CanonicalizedBody: body,
	}, nil
}

func asBytes(hashes []tlog.Hash) [][]byte {
	var out [][]byte
	for _, h := range hashes {
		out = append(out, h[:])
	}
	return out
}

// publicDER reads back a public key and refuses any but ECDSA P-256.
func publicDER(pemBytes []byte) ([]byte, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return nil, errors.New("the signer's public key is not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the signer's public key: %w", err)
	}
	if pub, ok := key.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the signer's key is a %T: want ECDSA P-256", key)
	}
	return block.Bytes, nil
}
