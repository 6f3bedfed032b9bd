package garden_test

import (
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/swellfleet/swell/cloud/garden"
	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
)

// backbone is a network of one convolution; change edits it before it is written.
func backbone(t *testing.T, change func(*onnx.Builder, *onnxpb.ModelProto)) []byte {
	t.Helper()
	var b onnx.Builder
	x := b.Input("data", onnx.Float, onnx.Batch, 3, 16, 16)
	w := make([]float32, 4*3*3*3)
	for i := range w {
		w[i] = float32(i%7) / 100
	}
	x = b.Node("Conv", []string{x, b.Floats("w", w, 4, 3, 3, 3)})
	x = b.Node("HardSwish", []string{x})
	b.NodeTo([]string{"features"}, "GlobalAveragePool", []string{x})
	b.Output("features", onnx.Float, onnx.Batch, 4, 1, 1)
	p, err := onnx.Marshal("net", b.Graph(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if change == nil {
		return p
	}
	m, err := onnx.Read(p, onnx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	change(&b, m)
	if p, err = proto.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return p
}

func needRuntime(t *testing.T) {
	t.Helper()
	if _, err := runtime.Library(""); err != nil {
		t.Skipf("ONNX Runtime is absent (make test fetches it): %v", err)
	}
}

type world struct {
	*garden.Garden
	store  *registry.Memory
	server *httptest.Server
}

// plant serves files over HTTPS; private says whether the garden may go there.
func plant(t *testing.T, private bool, files map[string][]byte) world {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch body, ok := files[r.URL.Path]; {
		case ok:
			w.Write(body)
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case r.URL.Path == "/plain":
			http.Redirect(w, r, "http://example.com/net.onnx", http.StatusFound)
		case r.URL.Path == "/endless":
			for part := make([]byte, 1<<20); r.Context().Err() == nil; {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	objects, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store := &registry.Memory{}
	now := func() time.Time { return time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC) }
	return world{garden.New(garden.Config{Registry: store, Objects: objects, Now: now, Private: private, Roots: roots}), store, server}
}

func TestABackboneIsTakenInFromAnAddress(t *testing.T) {
	needRuntime(t)
	net := backbone(t, nil)
	w := plant(t, true, map[string][]byte{"/net.onnx": net})
	v, err := w.Import(t.Context(), garden.Source{Name: "net", URL: w.server.URL + "/net.onnx", By: "user:ann", Reason: "of the camera's maker, MIT"})
	if err != nil {
		t.Fatal(err)
	}
	if v.Stage != registry.Candidate || v.Counter != 1 || v.Models[0].Kind != garden.Backbone || v.Models[0].Digest != artifact.Of(net) || v.Import.Input != "float [batch,3,16,16]" {
		t.Errorf("imported %+v", v)
	}
	for _, want := range []string{w.server.URL, "user:ann", "MIT", "not evaluated"} {
		if !strings.Contains(v.Card, want) {
			t.Errorf("the card does not say %q:\n%s", want, v.Card)
		}
	}
	again, err := w.Import(t.Context(), garden.Source{Name: "net", Bytes: net, By: "user:bob"})
	if err != nil || again.Counter != 1 {
		t.Errorf("the same bytes again: version %d, %v", again.Counter, err)
	}
	free := backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) {
		d := m.Graph.Input[0].Type.GetTensorType().Shape.Dim
		d[2].Value, d[3].Value = nil, nil
	})
	second, err := w.Import(t.Context(), garden.Source{Name: "net", Bytes: free, By: "user:bob"})
	if err != nil || second.Counter != 2 || second.Import.Input != "float [batch,3,224,224]" {
		t.Errorf("a network of free size: %+v, %v", second.Import, err)
	}
	if list, err := w.List(t.Context()); err != nil || len(list) != 1 || list[0].Counter != 2 {
		t.Errorf("listed %+v, %v", list, err)
	}
}

func TestANetworkForSensorValuesIsTakenIn(t *testing.T) {
	needRuntime(t)
	file, err := os.ReadFile("../../models/zoo/testdata/networks/lstm.onnx")
	if err != nil {
		t.Fatal(err)
	}
	w := plant(t, false, nil)
	v, err := w.Import(t.Context(), garden.Source{Name: "lstm", Bytes: file, By: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	if m := v.Models[0]; m.Kind != garden.Network || m.Digest != artifact.Of(file) || v.Import.Input != "float [batch any 3]" {
		t.Errorf("imported %+v with %+v", v.Import, m)
	}
	for _, want := range []string{"a reconstruction of the window", "garden:NAME", "any number of rows"} {
		if !strings.Contains(v.Card, want) {
			t.Errorf("the card does not say %q:\n%s", want, v.Card)
		}
	}
}

func TestAnOperationWithoutGradientIsNamed(t *testing.T) {
	needRuntime(t)
	found, err := garden.Inspect(backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) {
		m.Graph.Node[1].OpType = proto.String("Floor")
	}))
	if err != nil || !slices.ContainsFunc(found.Notes, func(n string) bool { return strings.Contains(n, "no gradient for Floor") }) {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestFilesThatCannotBeUsedAreRefusedWithTheReason(t *testing.T) {
	needRuntime(t)
	dims := func(m *onnxpb.ModelProto) []*onnxpb.TensorShapeProto_Dimension {
		return m.Graph.Input[0].Type.GetTensorType().Shape.Dim
	}
	for name, c := range map[string]struct {
		file []byte
		say  string
	}{
		"no ONNX":           {[]byte("<html>not found</html>"), "not"},
		"nothing":           {nil, "no graph"},
		"too large":         {make([]byte, garden.MaxBytes+1), "bytes"},
		"foreign domain":    {backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) { m.OpsetImport[0].Domain = proto.String("com.example") }), "domain"},
		"old operator set":  {backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) { m.OpsetImport[0].Version = proto.Int64(9) }), "operator set version 9"},
		"unknown operation": {backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) { m.Graph.Node[1].OpType = proto.String("Loop") }), "Loop"},
		"four colours": {backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) {
			dims(m)[1].Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: 4}
		}), "three colours"},
		"two inputs": {backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) {
			other := proto.Clone(m.Graph.Input[0]).(*onnxpb.ValueInfoProto)
			other.Name = proto.String("other")
			m.Graph.Input = append(m.Graph.Input, other)
		}), "several inputs"},
		"a broken contract": {backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) {
			m.MetadataProps = append(m.MetadataProps, &onnxpb.StringStringEntryProto{Key: proto.String("swell.contract"), Value: proto.String("1")})
		}), "model metadata"},
		"a picture too large": {backbone(t, func(_ *onnx.Builder, m *onnxpb.ModelProto) {
			for _, d := range dims(m)[2:] {
				d.Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: 60000}
			}
		}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := plant(t, true, nil)
			if _, err := w.Import(t.Context(), garden.Source{Name: "net", Bytes: c.file, By: "user:ann"}); !errors.Is(err, garden.ErrInvalid) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, want a refusal that says %q", err, c.say)
			}
			if list, err := w.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("kept %+v, %v", list, err)
			}
		})
	}
}

func TestAddressesThatAreNotSafeAreRefused(t *testing.T) {
	w := plant(t, true, nil)
	closed := plant(t, false, map[string][]byte{"/net.onnx": {1}})
	for name, c := range map[string]struct {
		w   world
		url string
		say string
	}{
		"plain HTTP":                  {w, "http://example.com/net.onnx", "want https"},
		"a user in it":                {w, "https://ann:pw@example.com/net.onnx", "without a user"},
		"a file":                      {w, "file:///etc/passwd", "want https"},
		"a redirect to plain HTTP":    {w, w.server.URL + "/plain", "want https"},
		"redirects without end":       {w, w.server.URL + "/loop", "redirects"},
		"a file without end":          {w, w.server.URL + "/endless", "more than"},
		"nothing there":               {w, w.server.URL + "/gone", "404"},
		"an address inside the plant": {closed, closed.server.URL + "/net.onnx", "not a public address"},
		"metadata of a cloud":         {closed, "https://169.254.169.254/latest", "not a public address"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.w.Import(t.Context(), garden.Source{Name: "net", URL: c.url, By: "user:ann"})
			if !errors.Is(err, garden.ErrInvalid) || !strings.Contains(err.Error(), c.say) || strings.Contains(err.Error(), "pw@") {
				t.Errorf("got %v, want a refusal that says %q", err, c.say)
			}
		})
	}
}

func TestAFamilyThatIsTrainedHereIsNotTaken(t *testing.T) {
	w := plant(t, true, nil)
	if err := w.store.SaveVersion(t.Context(), registry.Version{Family: "pump", Counter: 1, Stage: registry.Promoted}); err != nil {
		t.Fatal(err)
	}
	for name, say := range map[string]string{"pump": "choose another name", "../x": "name"} {
		if _, err := w.Import(t.Context(), garden.Source{Name: name, Bytes: []byte{1}, By: "user:ann"}); !errors.Is(err, garden.ErrInvalid) || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
