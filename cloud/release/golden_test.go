package release_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/release/releasetest"
	"github.com/swellfleet/swell/cloud/release/signing"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// house is a hub's release side with a real key and a real ledger.
type house struct {
	builder *release.Builder
	ledger  *ledger.Log
	objects *bucket
	store   *releasetest.Memory
	key     *signing.KeyPair
}

// testKey is one for all houses, since unlocking takes most of a second.
var testKey = sync.OnceValues(func() (*signing.KeyPair, error) {
	dir, err := os.MkdirTemp("", "swell-key")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return signing.OpenKeyPair(signing.KeyConfig{Dir: dir})
})

func newHouse(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	log, err := ledger.Open(t.Context(), ledger.Config{Dir: filepath.Join(dir, "ledger")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close(context.Background()) })
	h := &house{ledger: log, objects: newBucket(), store: &releasetest.Memory{}, key: key}
	h.builder, err = release.NewBuilder(release.Config{Store: h.store, Objects: h.objects, Ledger: log, Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) roots(t *testing.T) trust.Roots {
	t.Helper()
	r, err := trust.ParseRoots(h.key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// twoVariants is a candidate for pumps and gearboxes.
func twoVariants() release.Candidate {
	variant := func(class string) release.Variant {
		return release.Variant{
			Classes: []artifact.Class{artifact.Class(class)},
			Files: []release.File{
				release.Bytes(class+"/model.onnx", artifact.RoleModel, bytes.Repeat([]byte(class+" weights "), 200)),
				release.Bytes(class+"/golden.json", artifact.RoleGolden, []byte(`{"for":"`+class+`"}`)),
			},
			Limits: artifact.Limits{MemoryMiB: 64, LatencyP99Ms: 20},
		}
	}
	return release.Candidate{
		Name: "pump-anomaly", Kind: artifact.Model,
		Variants:   []release.Variant{variant("pump"), variant("gearbox")},
		Lineage:    artifact.Lineage{Run: "night-1", Snapshot: artifact.Of([]byte("snapshot")), Config: artifact.Of([]byte("config")), Code: "v1.2.3", Seed: 42},
		Expected:   &artifact.Shift{FlagShareChampion: 0.01, FlagShareChallenger: 0.012},
		Card:       "For pumps and gearboxes.\n",
		Evaluation: json.RawMessage(`{"f1":0.81}`),
		Reason:     "blessed",
	}
}

// download writes a stored release to a folder, as a customer would have it.
func (h *house) download(t *testing.T, r release.Release) string {
	t.Helper()
	dir := t.TempDir()
	for key, b := range h.objects.all(r.Key) {
		path := filepath.Join(dir, strings.TrimPrefix(key, r.Key))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAReleaseOfTwoVariantsIsBuiltSignedRecordedAndVerifies(t *testing.T) {
	h := newHouse(t)
	began := time.Now()
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("built in %v", time.Since(began))
	if r.Manifest.ID() != "pump-anomaly-1" || r.Digest.Hex() == "" || r.Key != "releases/"+r.Digest.Hex()+"/" {
		t.Fatalf("release %s, digest %s, key %s", r.Manifest.ID(), r.Digest, r.Key)
	}
	dir := h.download(t, r)
	withLog, err := h.roots(t).WithLog(h.ledger.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	for name, roots := range map[string]trust.Roots{"with the ledger's key": withLog, "with the release key alone": h.roots(t)} {
		m, err := trust.VerifyDir(dir, roots)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.ID() != r.Manifest.ID() || len(m.Variants) != 2 || len(m.Files()) != 5 {
			t.Fatalf("%s: manifest %+v", name, m)
		}
	}
	events, _, err := h.ledger.Events(t.Context(), ledger.Filter{Action: "release."}, "", 0)
	if err != nil || len(events) != 1 || events[0].Object != "Model/pump-anomaly-1" || events[0].Index != r.Event {
		t.Fatalf("ledger events %+v, %v", events, err)
	}

	again, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil || again.Digest != r.Digest {
		t.Fatalf("the same run built again gave %s, %v; want the first release", again.Manifest.ID(), err)
	}
	other := twoVariants()
	other.Lineage.Run = "night-2"
	next, err := h.builder.Build(t.Context(), other)
	if err != nil || next.Manifest.Counter != 2 {
		t.Fatalf("the next run gave counter %d, %v", next.Manifest.Counter, err)
	}
}

func cosignCLI(t *testing.T) string {
	t.Helper()
	home, _ := os.UserHomeDir()
	for _, p := range []string{os.Getenv("SWELL_COSIGN"), filepath.Join(home, ".cache", "swell", "bin", "cosign")} {
		if info, err := os.Stat(p); p != "" && err == nil && info.Mode().IsRegular() {
			return p
		}
	}
	p, err := exec.LookPath("cosign")
	if err != nil {
		t.Skip("the cosign command is not installed; `make test` builds it")
	}
	return p
}

func TestTheStockCosignCommandAcceptsAReleaseOfflineAndRefusesAFlippedByte(t *testing.T) {
	cli := cosignCLI(t)
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	dir := h.download(t, r)
	commands := documented(t, "cosign verify-blob-attestation")
	if len(commands) != 3 {
		t.Fatalf("docs/verify.md has %d cosign commands", len(commands))
	}
	run := func(command string) error {
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", command)
		cmd.Dir = dir
		// An unreachable proxy shows that nothing is asked of the network.
		cmd.Env = append(os.Environ(), "MODEL=pump/model.onnx", "PATH="+filepath.Dir(cli)+":"+os.Getenv("PATH"),
			"HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	for _, command := range commands {
		file := trust.DigestsFile
		if strings.HasSuffix(command, `"$MODEL"`) {
			file = "pump/model.onnx"
		}
		if err := run(command); err != nil {
			t.Errorf("refused: %s: %v", command, err)
		}
		path := filepath.Join(dir, file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(command); err == nil {
			t.Errorf("accepted with a byte of %s flipped: %s", file, command)
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(strings.ReplaceAll(commands[1], "$MODEL", "gearbox/model.onnx")); err != nil {
		t.Errorf("lineage of the other variant's model: %v", err)
	}
}

// documented returns the shell blocks of docs/verify.md that start with prefix.
func documented(t *testing.T, prefix string) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/verify.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for i, block := range strings.Split(string(page), "```") {
		block, ok := strings.CutPrefix(block, "sh\n")
		if i%2 == 1 && ok && strings.HasPrefix(block, prefix) {
			found = append(found, strings.TrimSpace(block))
		}
	}
	return found
}

func TestTheDocumentedDigestCheckNamesEveryFile(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not installed (Debian package jq)")
	}
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	dir := h.download(t, r)
	command := documented(t, "jq -r .dsseEnvelope")
	if len(command) != 1 {
		t.Fatalf("docs/verify.md has %d digest checks", len(command))
	}
	check := func() ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command[0])
		cmd.Dir = dir
		return cmd.CombinedOutput()
	}
	if out, err := check(); err != nil || strings.Count(string(out), ": OK") != 6 {
		t.Errorf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "card.txt"), []byte("another card"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := check(); err == nil {
		t.Errorf("a changed file was accepted: %s", out)
	}
}

func TestTheCosignCommandNeedsOurLedgersProof(t *testing.T) {
	cli := cosignCLI(t)
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	dir := h.download(t, r)
	foreign := newHouse(t)
	root, err := trust.TrustedRoot(foreign.ledger.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, trust.TrustedRootFile), root, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), cli, "verify-blob-attestation", "--key", trust.PublicKeyFile, "--bundle", trust.SLSAFile,
		"--trusted-root", trust.TrustedRootFile, "--offline", "--type", "slsaprovenance1", "pump/model.onnx")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Fatalf("a proof from a ledger that is not trusted was accepted: %s", out)
	}
}

func TestAFlippedByteInAnyPublishedFileIsRefused(t *testing.T) {
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	dir := h.download(t, r)
	tried := 0
	for key, good := range h.objects.all(r.Key) {
		path := filepath.Join(dir, strings.TrimPrefix(key, r.Key))
		for _, at := range []int{0, len(good) / 3, len(good) / 2, len(good) - 1} {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := trust.VerifyDir(dir, h.roots(t)); err == nil {
				t.Errorf("%s with byte %d changed was believed", path, at)
			}
			tried++
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if tried != 4*12 {
		t.Errorf("%d changes tried: the release does not have the 12 files this test knows", tried)
	}
	if _, err := trust.VerifyDir(dir, h.roots(t)); err != nil {
		t.Errorf("restored: %v", err)
	}
}
