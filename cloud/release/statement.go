package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

const (
	buildType = "https://swellfleet.github.io/retrain/v1"
	builderID = "https://swellfleet.github.io/swell-hub"
)

// digestOf reads f once and checks that it has the size it claims.
func digestOf(f File) (artifact.Digest, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f.Data, 0, f.Size))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.Path, err)
	}
	if n != f.Size {
		return "", fmt.Errorf("read %s: %d bytes, %d were promised", f.Path, n, f.Size)
	}
	return artifact.FromSum([32]byte(h.Sum(nil))), nil
}

// releaseStatement returns the statement of model.sig, in the form of OpenSSF
// Model Signing v1.0, and the contents of model.digests.
func releaseStatement(m artifact.Manifest, manifest []byte) (statement, digests []byte, err error) {
	type resource struct {
		Name      string `json:"name"`
		Algorithm string `json:"algorithm"`
		Digest    string `json:"digest"`
	}
	resources := []resource{{trust.ManifestFile, "sha256", artifact.Of(manifest).Hex()}}
	for _, f := range m.Files() {
		resources = append(resources, resource{f.Path, "sha256", f.Digest.Hex()})
	}
	slices.SortFunc(resources, func(a, b resource) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range resources {
		raw, err := hex.DecodeString(r.Digest)
		if err != nil {
			return nil, nil, fmt.Errorf("digest of %s: %w", r.Name, err)
		}
		digests = append(digests, raw...)
	}
	statement, err = newStatement([]trust.Subject{subject(m.ID(), artifact.Of(digests))}, trust.PredicateRelease, map[string]any{
		"serialization": map[string]any{"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": []string{}},
		"resources":     resources,
	})
	return statement, digests, err
}

// lineageStatement says where the model files came from.
func lineageStatement(c Candidate, r Release) ([]byte, error) {
	return newStatement(mainFiles(r.Manifest), trust.PredicateLineage, struct {
		Release    string           `json:"release"`
		Manifest   artifact.Digest  `json:"manifest"`
		Lineage    artifact.Lineage `json:"lineage"`
		Expected   *artifact.Shift  `json:"expected,omitempty"`
		Evaluation json.RawMessage  `json:"evaluation,omitempty"`
	}{r.Manifest.ID(), r.Digest, c.Lineage, c.Expected, c.Evaluation})
}

// slsaStatement says the same to tools that read SLSA provenance v1.
func slsaStatement(c Candidate, r Release) ([]byte, error) {
	type dependency struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	}
	dependencies := []dependency{}
	for _, d := range []struct {
		name   string
		digest artifact.Digest
	}{{"snapshot", c.Lineage.Snapshot}, {"config", c.Lineage.Config}, {"parent", c.Lineage.Parent}} {
		if h := d.digest.Hex(); h != "" {
			dependencies = append(dependencies, dependency{d.name, map[string]string{"sha256": h}})
		}
	}
	return newStatement(mainFiles(r.Manifest), trust.PredicateSLSA, map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            buildType,
			"externalParameters":   map[string]any{"name": c.Name, "kind": c.Kind, "seed": c.Lineage.Seed},
			"resolvedDependencies": dependencies,
		},
		"runDetails": map[string]any{
			"builder":  map[string]any{"id": builderID, "version": map[string]string{"swell": c.Lineage.Code}},
			"metadata": map[string]any{"invocationId": c.Lineage.Run, "finishedOn": r.Manifest.Created},
		},
	})
}

// mainFiles are the subjects of lineage and provenance: the models or images of
// all variants.
func mainFiles(m artifact.Manifest) []trust.Subject {
	var subjects []trust.Subject
	for _, f := range m.Files() {
		if f.Role == artifact.RoleModel || f.Role == artifact.RoleImage {
			subjects = append(subjects, subject(f.Path, f.Digest))
		}
	}
	return subjects
}

func subject(name string, d artifact.Digest) trust.Subject {
	s := trust.Subject{Name: name}
	s.Digest.SHA256 = d.Hex()
	return s
}

func newStatement(subjects []trust.Subject, predicateType string, predicate any) ([]byte, error) {
	p, err := json.Marshal(predicate)
	if err != nil {
		return nil, fmt.Errorf("write statement %s: %w", predicateType, err)
	}
	return json.Marshal(trust.Statement{Type: trust.StatementType, Subject: subjects, PredicateType: predicateType, Predicate: p})
}
