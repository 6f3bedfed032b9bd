package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/ledger"
)

func auditEvent(index uint64, e ledger.Event) apimodel.AuditEvent {
	out := apimodel.AuditEvent{Index: int64(index), At: e.Time, Actor: e.Actor, Action: e.Action, Subject: e.Object, Reason: some(e.Reason), Outcome: "ok"}
	var detail map[string]any
	if json.Unmarshal(e.Detail, &detail) == nil && len(detail) > 0 {
		flat := map[string]string{}
		for k, v := range detail {
			if text, ok := v.(string); ok {
				flat[k] = text
			} else if b, err := json.Marshal(v); err == nil {
				flat[k] = string(b)
			}
		}
		out.Details = &flat
	}
	return out
}

// ListAuditEvents lists what was done, newest first.
func (s *Server) ListAuditEvents(ctx context.Context, r apigen.ListAuditEventsRequestObject) (apigen.ListAuditEventsResponseObject, error) {
	p := r.Params
	cursor, err := placeOf(p.Cursor)
	if err != nil {
		return nil, err
	}
	f := ledger.Filter{Actor: value(p.Actor), Action: value(p.Action), Object: value(p.Subject), Since: value(p.From), Until: value(p.To)}
	list, next, err := s.cfg.Ledger.Events(ctx, f, cursor, limitOf(p.Limit))
	if err != nil {
		return nil, err
	}
	_, tree, err := s.cfg.Ledger.Head(ctx)
	if err != nil {
		return nil, err
	}
	out := apimodel.AuditEventList{Items: make([]apimodel.AuditEvent, len(list)), TreeSize: &tree.N}
	for i, e := range list {
		out.Items[i] = auditEvent(e.Index, e.Event)
	}
	if next != "" {
		out.NextCursor = cursorOf(next)
	}
	return apigen.ListAuditEvents200JSONResponse(out), nil
}

func (s *Server) leaf(ctx context.Context, index apimodel.LeafIndex) ([]byte, ledger.Event, error) {
	leaf, e, err := s.cfg.Ledger.Leaf(ctx, uint64(index))
	if err != nil {
		return nil, e, notFound(fmt.Sprintf("entry %d of the ledger", index))
	}
	return leaf, e, nil
}

// GetAuditEvent shows one event.
func (s *Server) GetAuditEvent(ctx context.Context, r apigen.GetAuditEventRequestObject) (apigen.GetAuditEventResponseObject, error) {
	leaf, e, err := s.leaf(ctx, r.Index)
	if err != nil {
		return nil, err
	}
	if e.Action == "" {
		return nil, notFound(fmt.Sprintf("an event at entry %d of the ledger (it is a signature)", r.Index))
	}
	out := auditEvent(uint64(r.Index), e)
	hash := tlog.RecordHash(leaf)
	out.LeafHash = some(hex.EncodeToString(hash[:]))
	return apigen.GetAuditEvent200JSONResponse(out), nil
}

// GetAuditProof proves that an event is in the ledger.
func (s *Server) GetAuditProof(ctx context.Context, r apigen.GetAuditProofRequestObject) (apigen.GetAuditProofResponseObject, error) {
	leaf, _, err := s.leaf(ctx, r.Index)
	if err != nil {
		return nil, err
	}
	rec, err := s.cfg.Ledger.Proof(ctx, uint64(r.Index))
	if err != nil {
		return nil, notFound(fmt.Sprintf("a checkpoint that covers entry %d of the ledger", r.Index))
	}
	// C2SP tlog-checkpoint: origin, size and base64 root, a line each.
	lines := strings.SplitN(rec.Checkpoint, "\n", 4)
	if len(lines) < 4 {
		return nil, fmt.Errorf("checkpoint of the ledger has %d lines", len(lines))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("size in the ledger's checkpoint: %w", err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return nil, fmt.Errorf("root in the ledger's checkpoint has %d bytes: %w", len(root), err)
	}
	hash := tlog.RecordHash(leaf)
	out := apimodel.InclusionProof{
		Index: r.Index, TreeSize: size, Leaf: base64.StdEncoding.EncodeToString(leaf), LeafHash: hex.EncodeToString(hash[:]),
		Hashes: []string{}, RootHash: hex.EncodeToString(root), Checkpoint: rec.Checkpoint, Origin: some(lines[0]),
	}
	for _, h := range rec.Proof {
		out.Hashes = append(out.Hashes, hex.EncodeToString(h[:]))
	}
	return apigen.GetAuditProof200JSONResponse(out), nil
}
