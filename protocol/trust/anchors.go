package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// AnchorsPath is where a hub hands its Anchors to whoever asks, on the listener
// for devices.
const AnchorsPath = "/v1/trust"

// MaxAnchorsBytes bounds the answer.
const MaxAnchorsBytes = 32 << 10

// Anchors are the public keys of a hub. A device takes them once, when it
// enrols, over TLS that it has pinned to the hub's CA: whoever holds that CA's
// key on that day chooses whom the device believes. Keys that an operator
// brought to the device come before these.
type Anchors struct {
	ReleaseKeys string `json:"release_keys"` // PEM, as for ParseRoots
	LedgerKey   string `json:"ledger_key"`   // verifier key, as for Roots.WithLog
}

// ParseAnchors reads a hub's answer. Both keys must be there and be readable.
func ParseAnchors(b []byte) (Anchors, error) {
	var a Anchors
	if len(b) > MaxAnchorsBytes {
		return a, fmt.Errorf("read the hub's public keys: more than %d bytes", MaxAnchorsBytes)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return Anchors{}, fmt.Errorf("read the hub's public keys: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Anchors{}, fmt.Errorf("read the hub's public keys: something follows them")
	}
	if _, err := a.Roots(); err != nil {
		return Anchors{}, fmt.Errorf("read the hub's public keys: %w", err)
	}
	return a, nil
}

// Roots returns what a reader with these keys believes.
func (a Anchors) Roots() (Roots, error) {
	r, err := ParseRoots([]byte(a.ReleaseKeys))
	if err != nil {
		return Roots{}, err
	}
	return r.WithLog(a.LedgerKey)
}
