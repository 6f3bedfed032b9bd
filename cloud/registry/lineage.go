package registry

import (
	"cmp"

	"github.com/swellfleet/swell/protocol/artifact"
)

// SourceKind is what a version learned from.
type SourceKind string

// The kinds of sources.
const (
	FromSegment SourceKind = "segment" // a file of a device's rows
	FromFrame   SourceKind = "frame"   // an image that a device sent
	FromLabel   SourceKind = "label"   // what a person said; the digest is of its JSON
)

// Source is one thing that a version learned from. What it was is in the
// version's snapshot; this is for the way back, from the thing to the versions.
type Source struct {
	Kind   SourceKind
	Digest artifact.Digest
}

// VersionRef names a version.
type VersionRef struct {
	Family  string
	Counter uint64
}

func compareRefs(a, b VersionRef) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(b.Counter, a.Counter))
}
