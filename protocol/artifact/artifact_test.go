package artifact_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/artifact"
)

func file(path string, role artifact.Role) artifact.File {
	return artifact.File{Path: path, Digest: artifact.Of([]byte(path)), Size: int64(len(path)), Role: role}
}

// good is a manifest of two variants that share a card.
func good() artifact.Manifest {
	card := file("card.txt", artifact.RoleCard)
	return artifact.Manifest{
		Schema: 1, Kind: artifact.Model, Name: "pump-anomaly", Counter: 7,
		Created: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC),
		Variants: []artifact.Variant{
			{Classes: []artifact.Class{"pump", "pump.v2"}, Files: []artifact.File{file("pump/model.onnx", artifact.RoleModel), card}},
			{Classes: []artifact.Class{"gearbox"}, Arch: "arm64", Files: []artifact.File{file("gearbox/model.onnx", artifact.RoleModel), card}},
		},
	}
}

func TestAManifestSurvivesItsCanonicalBytes(t *testing.T) {
	m := good()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := artifact.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Encode()
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("encoded again as %s, %v", again, err)
	}
	local := m
	local.Created = m.Created.In(time.FixedZone("CET", 3600)).Add(300 * time.Millisecond)
	if other, err := local.Encode(); err != nil || !bytes.Equal(b, other) {
		t.Errorf("another zone and a fraction of a second changed the bytes: %s, %v", other, err)
	}
	if _, err := artifact.Parse(append(b, ' ')); err == nil {
		t.Error("bytes after the manifest were accepted")
	}
}

func TestEachRuleOfAManifestIsKept(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*artifact.Manifest)
	}{
		{"a later schema", func(m *artifact.Manifest) { m.Schema = 2 }},
		{"an unknown kind", func(m *artifact.Manifest) { m.Kind = "driver" }},
		{"counter zero", func(m *artifact.Manifest) { m.Counter = 0 }},
		{"a counter forwarded to 2^63", func(m *artifact.Manifest) { m.Counter = 1 << 63 }},
		{"no variants", func(m *artifact.Manifest) { m.Variants = nil }},
		{"too many variants", func(m *artifact.Manifest) { m.Variants = make([]artifact.Variant, artifact.MaxVariants+1) }},
		{"a name with a slash", func(m *artifact.Manifest) { m.Name = "a/b" }},
		{"an empty name", func(m *artifact.Manifest) { m.Name = "" }},
		{"an empty class list", func(m *artifact.Manifest) { m.Variants[0].Classes = nil }},
		{"an empty class", func(m *artifact.Manifest) { m.Variants[0].Classes[0] = "" }},
		{"a class twice in a variant", func(m *artifact.Manifest) { m.Variants[0].Classes[1] = "pump" }},
		{"a class in two variants", func(m *artifact.Manifest) { m.Variants[1].Classes[0], m.Variants[1].Arch = "pump", "" }},
		{"a class for any architecture and for one", func(m *artifact.Manifest) { m.Variants[1].Classes[0] = "pump" }},
		{"no files", func(m *artifact.Manifest) { m.Variants[0].Files = nil }},
		{"too many files", func(m *artifact.Manifest) { m.Variants[0].Files = make([]artifact.File, artifact.MaxFiles+1) }},
		{"no model in a model release", func(m *artifact.Manifest) { m.Variants[0].Files = m.Variants[0].Files[1:] }},
		{"no image in a firmware release", func(m *artifact.Manifest) { m.Kind = artifact.Firmware }},
		{"two models in a variant", func(m *artifact.Manifest) {
			m.Variants[0].Files = append(m.Variants[0].Files, file("second.onnx", artifact.RoleModel))
		}},
		{"a path outside", func(m *artifact.Manifest) { m.Variants[0].Files[0].Path = "../model.onnx" }},
		{"a digest of another kind", func(m *artifact.Manifest) { m.Variants[0].Files[0].Digest = "md5:00" }},
		{"an empty file", func(m *artifact.Manifest) { m.Variants[0].Files[0].Size = 0 }},
		{"a file over the cap", func(m *artifact.Manifest) { m.Variants[0].Files[0].Size = artifact.MaxFileBytes + 1 }},
		{"a shared file with two digests", func(m *artifact.Manifest) { m.Variants[1].Files[1].Digest = artifact.Of(nil) }},
		{"a shared file with two sizes", func(m *artifact.Manifest) { m.Variants[1].Files[1].Size++ }},
		{"a file in the manifest's place", func(m *artifact.Manifest) { m.Variants[0].Files[0].Path = "manifest.json" }},
		{"a file in the signature's place", func(m *artifact.Manifest) { m.Variants[0].Files[0].Path = "model.sig" }},
		{"a file that is another's folder", func(m *artifact.Manifest) { m.Variants[0].Files[0].Path = "card.txt/model.onnx" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := good()
			c.make(&m)
			if b, err := m.Encode(); err == nil {
				t.Fatalf("was encoded: %s", b)
			}
		})
	}
	if err := good().Validate(); err != nil {
		t.Errorf("the good manifest: %v", err)
	}
}

func TestAManifestOverItsCapIsNotWritten(t *testing.T) {
	m := good()
	for i := range 4000 {
		v := artifact.Variant{Classes: []artifact.Class{artifact.Class(fmt.Sprintf("class-%d", i))}}
		v.Files = []artifact.File{file(strings.Repeat("a", 150)+fmt.Sprint(i), artifact.RoleModel)}
		m.Variants = append(m.Variants, v)
	}
	if _, err := m.Encode(); err == nil {
		t.Error("was written")
	}
}

func TestBytesThatAreNoManifestAreRefused(t *testing.T) {
	b, err := good().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "null": []byte("null"), "an array": []byte("[]"), "text": []byte("manifest"),
		"cut": b[:len(b)-1], "over the cap": append(b, bytes.Repeat([]byte(" "), artifact.MaxManifestBytes)...),
		"deep": []byte(strings.Repeat("[", 100_000)),
	} {
		if m, err := artifact.Parse(bad); err == nil {
			t.Errorf("%s was read as %s", name, m.ID())
		}
	}
}

// TestADeviceGetsTheVariantOfItsClassAndNoOther is section 7 of the inputs to
// survive.
func TestADeviceGetsTheVariantOfItsClassAndNoOther(t *testing.T) {
	m := good()
	for _, c := range []struct {
		class artifact.Class
		arch  string
		want  string // path of the model; empty: none
	}{
		{"pump", "amd64", "pump/model.onnx"},
		{"pump", "arm64", "pump/model.onnx"},
		{"pump.v2", "arm64", "pump/model.onnx"},
		{"gearbox", "arm64", "gearbox/model.onnx"},
		{"gearbox", "amd64", ""},  // wrong architecture
		{"pum", "amd64", ""},      // a prefix of a class
		{"pump.v20", "amd64", ""}, // a class is a prefix of it
		{"Pump", "amd64", ""},
		{"", "amd64", ""},
	} {
		v, err := m.Select(c.class, c.arch)
		f, _ := v.File(artifact.RoleModel)
		if f.Path != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, artifact.ErrNoVariant) {
			t.Errorf("class %q on %s: %q, %v; want %q", c.class, c.arch, f.Path, err, c.want)
		}
	}
	if _, ok := m.Variants[0].File(artifact.RoleGolden); ok {
		t.Error("a variant without golden vectors has some")
	}
}

func TestFilesNamesEachFileOnceInOrder(t *testing.T) {
	var paths []string
	for _, f := range good().Files() {
		paths = append(paths, f.Path)
	}
	if want := []string{"card.txt", "gearbox/model.onnx", "pump/model.onnx"}; !slices.Equal(paths, want) {
		t.Errorf("files %v, want %v", paths, want)
	}
}

// TestACounterNeverFallsAndNeverMeansTwoThings is the counter's part of section
// 5 of the inputs to survive.
func TestACounterNeverFallsAndNeverMeansTwoThings(t *testing.T) {
	here, there := artifact.Of([]byte("here")), artifact.Of([]byte("there"))
	for _, c := range []struct {
		name    string
		held    artifact.Held
		counter uint64
		digest  artifact.Digest
		ok      bool
	}{
		{"the first release", artifact.Held{}, 1, here, true},
		{"a newer one", artifact.Held{Counter: 7, Digest: here}, 8, there, true},
		{"the one held", artifact.Held{Counter: 7, Digest: here}, 7, here, true},
		{"an older one", artifact.Held{Counter: 7, Digest: here}, 6, there, false},
		{"the same counter with other contents", artifact.Held{Counter: 7, Digest: here}, 7, there, false},
		{"below the floor", artifact.Held{Floor: 5}, 4, here, false},
		{"at the floor", artifact.Held{Floor: 5}, 5, here, true},
		{"the one held after the floor rose above it", artifact.Held{Floor: 8, Counter: 7, Digest: here}, 7, here, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := good()
			m.Counter = c.counter
			if err := c.held.Admit(m, c.digest); (err == nil) != c.ok {
				t.Fatalf("%v, want admitted %t", err, c.ok)
			}
		})
	}
}

// TestHostilePathsAreRefused is section 3 of the inputs to survive.
func TestHostilePathsAreRefused(t *testing.T) {
	for _, p := range []string{
		"", ".", "..", "../a", "a/..", "a/../b", "/a", "//a", "a//b", "a/", "./a", `a\b`, `c:\a`, "c:a", "a\x00", "a\x1fb", "a b", "a ",
		".a", "a/.b", "a.", "a./b", "A", "é", "\xff", "a\u200b", strings.Repeat("a", artifact.MaxPathLen+1), "a\n", "~", "$a", "a*", "a%2f",
	} {
		if artifact.ValidPath(p) == nil {
			t.Errorf("path %q was accepted", p)
		}
	}
	for _, p := range []string{"a", "model.onnx", "pump/v2/model-1_2.onnx", strings.Repeat("a", artifact.MaxPathLen)} {
		if err := artifact.ValidPath(p); err != nil {
			t.Errorf("path %q: %v", p, err)
		}
	}
}

func TestAValidPathStaysBelowItsFolder(t *testing.T) {
	alphabet := []rune("ab.-_/\\: ~\x00AZé")
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringOfN(rapid.SampledFrom(alphabet), 0, 12, -1).Draw(t, "path")
		if artifact.ValidPath(p) != nil {
			return
		}
		for part := range strings.SplitSeq(p, "/") {
			if part == "" || strings.HasPrefix(part, ".") || strings.ToLower(part) != part || strings.ContainsAny(part, "\\: ~\x00") {
				t.Fatalf("path %q was accepted", p)
			}
		}
	})
}

func TestDigestsHaveOneForm(t *testing.T) {
	d := artifact.Of([]byte("x"))
	if err := d.Validate(); err != nil || len(d.Hex()) != 64 || d.Short() != d.Hex()[:12] {
		t.Fatalf("%s: %v", d, err)
	}
	for _, bad := range []artifact.Digest{
		"", "sha256:", artifact.Digest(d.Hex()), artifact.Digest(strings.ToUpper(string(d))), "sha256:" + artifact.Digest(strings.ToUpper(d.Hex())),
		d + "0", d[:len(d)-1], "sha512:" + artifact.Digest(d.Hex()), "sha256:" + artifact.Digest(strings.Repeat("g", 64)),
	} {
		if bad.Validate() == nil || bad.Hex() != "" || bad.Short() != "none" {
			t.Errorf("digest %q was accepted", string(bad))
		}
	}
}

func TestGoldenVectorsCatchWhatDiffers(t *testing.T) {
	g := artifact.Golden{Scores: []float32{0, 100}, Flags: []bool{false, true}, AbsTol: 0.01, RelTol: 0.001}
	for _, c := range []struct {
		name  string
		i     int
		score float32
		flag  bool
		ok    bool
	}{
		{"the same", 1, 100, true, true},
		{"within the tolerance", 1, 100.1, true, true},
		{"outside the tolerance", 1, 100.2, true, false},
		{"another flag", 1, 100, false, false},
		{"not a number", 0, float32(math.NaN()), false, false},
		{"infinite", 1, float32(math.Inf(1)), true, false},
		{"past the end", 2, 0, false, false},
		{"before the start", -1, 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := g.Check(c.i, c.score, c.flag); (err == nil) != c.ok {
				t.Fatalf("%v, want accepted %t", err, c.ok)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	b, err := good().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := artifact.Parse(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted %s, writes %s, %v", b, again, err)
		}
	})
}
