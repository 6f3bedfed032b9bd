package trust_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/trust"
)

// TestHostileReceiptsAreRefused is section 10 of the inputs to survive.
func TestHostileReceiptsAreRefused(t *testing.T) {
	l, foreign := newTestLog(t, "ledger.test"), newTestLog(t, "ledger.test")
	leaf := []byte("the fifth event")
	for i := range 9 {
		e := fmt.Appendf(nil, "event %d", i)
		if i == 5 {
			e = leaf
		}
		l.append(t, e)
		foreign.append(t, e)
	}
	good := l.prove(t, 5)
	tree, err := trust.VerifyReceipt(l.vkey, leaf, good)
	if err != nil || tree.N != 9 {
		t.Fatalf("%+v, %v", tree, err)
	}
	for _, c := range []struct {
		name string
		make func(r *trust.Receipt)
	}{
		{"another leaf's proof", func(r *trust.Receipt) { *r = l.prove(t, 4) }},
		{"another index", func(r *trust.Receipt) { r.Index = 4 }},
		{"an index past the end", func(r *trust.Receipt) { r.Index = 9 }},
		{"an index past every end", func(r *trust.Receipt) { r.Index = 1 << 63 }},
		{"a proof cut short", func(r *trust.Receipt) { r.Proof = r.Proof[1:] }},
		{"a proof with one hash more", func(r *trust.Receipt) { r.Proof = append(r.Proof, tlog.Hash{}) }},
		{"a huge proof", func(r *trust.Receipt) { r.Proof = make(tlog.RecordProof, 1000) }},
		{"a changed hash", func(r *trust.Receipt) { r.Proof[0][0] ^= 1 }},
		{"no checkpoint", func(r *trust.Receipt) { r.Checkpoint = "" }},
		{"a checkpoint without its signature", func(r *trust.Receipt) { r.Checkpoint, _, _ = strings.Cut(r.Checkpoint, "\n\n") }},
		{"a checkpoint of a foreign key", func(r *trust.Receipt) { r.Checkpoint = foreign.prove(t, 5).Checkpoint }},
		{"a checkpoint of a smaller size, signature kept", func(r *trust.Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n9\n", "\n8\n", 1) }},
		{"a signed checkpoint with another root", func(r *trust.Receipt) { r.Checkpoint = l.checkpoint(t, tlog.Tree{N: 9, Hash: tlog.Hash{1}}) }},
		{"a signed checkpoint of a negative size", func(r *trust.Receipt) { r.Checkpoint = l.checkpoint(t, tlog.Tree{N: -9, Hash: tree.Hash}) }},
		{"a huge checkpoint", func(r *trust.Receipt) { r.Checkpoint += strings.Repeat("x", 1<<20) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := good
			r.Proof = slices.Clone(good.Proof)
			c.make(&r)
			if _, err := trust.VerifyReceipt(l.vkey, leaf, r); err == nil {
				t.Fatal("was believed")
			}
		})
	}
	if _, err := trust.VerifyReceipt(l.vkey, []byte("the fifth Event"), good); err == nil {
		t.Error("a changed leaf was believed")
	}
	if _, err := trust.VerifyReceipt("not a key", leaf, good); err == nil {
		t.Error("a receipt was believed without a key")
	}
}

func TestTheLedgerMayOnlyGrow(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		older := rapid.IntRange(1, 40).Draw(rt, "older")
		newer := rapid.IntRange(older, 80).Draw(rt, "newer")
		l := newTestLog(t, "ledger.test")
		var then tlog.Tree
		for i := range newer {
			l.append(t, fmt.Appendf(nil, "event %d", i))
			if i+1 == older {
				then = l.tree(t)
			}
		}
		now := l.tree(t)
		proof, err := tlog.ProveTree(now.N, then.N, l)
		if err != nil {
			rt.Fatal(err)
		}
		if err := trust.CheckGrowth(then, now, proof); err != nil {
			rt.Fatalf("honest growth from %d to %d: %v", older, newer, err)
		}
		if err := trust.CheckGrowth(tlog.Tree{}, now, nil); err != nil {
			rt.Fatalf("growth from nothing: %v", err)
		}
		rewritten := then
		rewritten.Hash[3] ^= 1
		if err := trust.CheckGrowth(rewritten, now, proof); err == nil {
			rt.Fatal("another past was believed")
		}
		if newer > older {
			if err := trust.CheckGrowth(now, then, proof); err == nil {
				rt.Fatal("a ledger that shrank was believed")
			}
		}
	})
}

func TestABundleWhoseLedgerProofIsWrongIsRefused(t *testing.T) {
	entry := func(b doc) doc { return b["verificationMaterial"].(doc)["tlogEntries"].([]any)[0].(doc) }
	proof := func(b doc) doc { return entry(b)["inclusionProof"].(doc) }
	for _, c := range []struct {
		name   string
		change func(b doc)
	}{
		{"no proof", func(b doc) { b["verificationMaterial"].(doc)["tlogEntries"] = []any{} }},
		{"two proofs", func(b doc) {
			m := b["verificationMaterial"].(doc)
			m["tlogEntries"] = append(m["tlogEntries"].([]any), m["tlogEntries"].([]any)[0])
		}},
		{"another index", func(b doc) { entry(b)["logIndex"] = "0" }},
		{"an index with a sign", func(b doc) { entry(b)["logIndex"] = "+1" }},
		{"another index in the proof", func(b doc) { proof(b)["logIndex"] = "0" }},
		{"another size", func(b doc) { proof(b)["treeSize"] = "3" }},
		{"another root", func(b doc) { proof(b)["rootHash"] = b64(make([]byte, 32)) }},
		{"a short hash", func(b doc) { proof(b)["hashes"] = []any{"AAAA"} }},
		{"no hashes", func(b doc) { proof(b)["hashes"] = []any{} }},
		{"another ledger's name", func(b doc) { entry(b)["logId"] = doc{"keyId": b64(make([]byte, 32))} }},
		{"another body", func(b doc) { entry(b)["canonicalizedBody"] = b64([]byte("{}")) }},
		{"another kind", func(b doc) { entry(b)["kindVersion"] = doc{"kind": "hashedrekord", "version": "0.0.2"} }},
		{"no checkpoint", func(b doc) { delete(proof(b), "checkpoint") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newForge(t)
			f.envelope = c.change
			manifest, bundle := f.release(t, goodManifest(goodFiles()))
			roots, err := f.key.roots(t).WithLog(f.log.vkey)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := trust.VerifyRelease(roots, bundle, manifest); err == nil {
				t.Fatal("was believed")
			}
		})
	}
}

func TestALedgerKeyThatSigstoreCouldNotNameIsRefused(t *testing.T) {
	for _, name := range []string{"Ledger", "a_b", "-a", "a.", "a/b", strings.Repeat("a", 201)} {
		if _, err := (trust.Roots{}).WithLog(newTestLog(t, name).vkey); err == nil {
			t.Errorf("a ledger named %q was taken", name)
		}
	}
	if _, err := (trust.Roots{}).WithLog("ledger+00000000+AAAA"); err == nil {
		t.Error("a broken key was taken")
	}
}
