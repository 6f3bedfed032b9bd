package ctl

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/swellfleet/swell/protocol/trust"
)

var events = kind{name: "events", columns: []column{
	{"INDEX", "index", false}, {"AT", "at", false}, {"ACTOR", "actor", false}, {"ACTION", "action", false}, {"SUBJECT", "subject", false},
	{"OUTCOME", "outcome", false}, {"REASON", "reason", false}, {"LEAF", "leafHash", true},
}}

func (e *env) audit() *cobra.Command {
	var limit int
	var since time.Duration
	filter := map[string]*string{}
	log := &cobra.Command{
		Use: "log", Short: "List what was done, newest first", Args: args(cobra.NoArgs),
		Example: "  swellctl audit log --action rollout. --since 24h",
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 || limit > 10000 {
				return usage("--limit %d: want 1 to 10000", limit)
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			for name, value := range filter {
				if *value != "" {
					q.Set(name, *value)
				}
			}
			if since > 0 {
				q.Set("from", time.Now().Add(-since).UTC().Format(time.RFC3339))
			}
			var page struct {
				Items      []object `json:"items"`
				NextCursor string   `json:"nextCursor"`
			}
			if err := h.get(ctx, "/audit/events", q, &page); err != nil {
				return err
			}
			if page.NextCursor != "" {
				fmt.Fprintln(e.err, "There are older events: ask for more with --limit.")
			}
			return e.show(events, page.Items, false)
		},
	}
	log.Flags().IntVar(&limit, "limit", 50, "how many events")
	log.Flags().DurationVar(&since, "since", 0, "how far back; 0 is to the beginning")
	for name, help := range map[string]string{
		"actor": "who, as in user:admin", "action": "what, or a beginning that ends in a dot, as in 'rollout.'", "subject": "on what, as in Device/hall-1/press-03",
	} {
		filter[name] = log.Flags().String(name, "", help)
	}
	var key string
	prove := &cobra.Command{
		Use: "prove INDEX", Short: "Prove that an event is in the log, and recompute the proof here", Args: args(cobra.ExactArgs(1)),
		Long: `prove asks the hub for an event's path to the root of the log and computes that
path again. With --key it also checks that the log signed the root. The event
goes to standard output, byte for byte as it was hashed.`,
		Example: "  swellctl audit prove 0",
		RunE: func(c *cobra.Command, a []string) error {
			index, err := strconv.ParseUint(a[0], 10, 63)
			if err != nil {
				return usage("%q is no index: 'swellctl audit log' shows them", a[0])
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var p struct {
				TreeSize   int64    `json:"treeSize"`
				Leaf       string   `json:"leaf"`
				Hashes     []string `json:"hashes"`
				RootHash   string   `json:"rootHash"`
				Checkpoint string   `json:"checkpoint"`
			}
			if err := h.get(ctx, fmt.Sprintf("/audit/events/%d/proof", index), nil, &p); err != nil {
				return err
			}
			leaf, err := base64.StdEncoding.DecodeString(p.Leaf)
			if err != nil {
				return fmt.Errorf("the proof's leaf is not base64: %w", err)
			}
			r := trust.Receipt{Index: index, Checkpoint: p.Checkpoint}
			for _, s := range p.Hashes {
				b, err := hex.DecodeString(s)
				if err != nil || len(b) != tlog.HashSize {
					return fmt.Errorf("the proof's hash %q is not 64 hex digits", s)
				}
				r.Proof = append(r.Proof, tlog.Hash(b))
			}
			fmt.Fprintln(e.out, string(leaf))
			if key == "" {
				root, err := hex.DecodeString(p.RootHash)
				if err != nil || len(root) != tlog.HashSize {
					return fmt.Errorf("the proof's root is not 64 hex digits")
				}
				if err := tlog.CheckRecord(r.Proof, p.TreeSize, tlog.Hash(root), int64(index), tlog.RecordHash(leaf)); err != nil {
					return fmt.Errorf("%w: %w", errNotVerified, err)
				}
				fmt.Fprintf(e.err, "The path leads from event %d to root %s of %d events. Give the log's key with --key to check who signed that root.\n", index, p.RootHash, p.TreeSize)
				return nil
			}
			verifier, err := verifierKey(key)
			if err != nil {
				return err
			}
			tree, err := trust.VerifyReceipt(verifier, leaf, r)
			if err != nil {
				return fmt.Errorf("%w: %w", errNotVerified, err)
			}
			fmt.Fprintf(e.err, "Event %d is in the log of %d events whose root the log signed.\n", index, tree.N)
			return nil
		},
	}
	prove.Flags().StringVar(&key, "key", "", "the log's verifier key, a file with it, or the trusted_root.json of a release, from a source you trust")
	c := &cobra.Command{Use: "audit", Short: "Read the audit log and prove what it says"}
	c.AddCommand(log, prove)
	return c
}

// verifierKey returns the log's key in the form of golang.org/x/mod/sumdb/note,
// whichever way it was given.
func verifierKey(given string) (string, error) {
	b, err := os.ReadFile(given)
	if err != nil {
		if _, bad := note.NewVerifier(given); bad != nil {
			return "", usage("--key %s is neither a file nor a verifier key such as swell-ledger-1a2b3c4d+0f1e2d3c+A…", given)
		}
		return given, nil
	}
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return strings.TrimSpace(string(b)), nil
	}
	var root struct {
		Tlogs []struct {
			BaseURL   string `json:"baseUrl"`
			PublicKey struct {
				RawBytes []byte `json:"rawBytes"`
			} `json:"publicKey"`
		} `json:"tlogs"`
	}
	if err := json.Unmarshal(b, &root); err != nil || len(root.Tlogs) != 1 {
		return "", usage("%s is no trusted_root.json with one log", given)
	}
	key, err := x509.ParsePKIXPublicKey(root.Tlogs[0].PublicKey.RawBytes)
	pub, ok := key.(ed25519.PublicKey)
	if err != nil || !ok {
		return "", usage("%s holds no Ed25519 key", given)
	}
	return note.NewEd25519VerifierKey(strings.TrimPrefix(root.Tlogs[0].BaseURL, "https://"), pub)
}
