package release_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

type answer struct {
	*http.Response
	body string
}

// ask sends a request straight to the handler, so that no client cleans the
// path on the way.
func ask(t *testing.T, h http.Handler, method, path string, head ...string) answer {
	t.Helper()
	r := httptest.NewRequest(method, "http://hub/", nil)
	r.URL.Path = path
	for i := 0; i < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	res := w.Result()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, string(b)}
}

func TestDevicesGetTheFilesOfAReleaseAndNothingElse(t *testing.T) {
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	base := release.FilesPath + r.Digest.Hex() + "/"
	h.objects.kept[r.Key+"notes.txt"] = []byte("not part of the release")
	h.objects.kept["snapshots/secret"] = []byte("secret")
	files := release.Files(h.objects, nil)

	for key, content := range h.objects.all(r.Key) {
		name := strings.TrimPrefix(key, r.Key)
		if name == "notes.txt" {
			continue
		}
		res := ask(t, files, "GET", base+name)
		if res.StatusCode != http.StatusOK || res.body != string(content) || res.ContentLength != int64(len(content)) {
			t.Errorf("%s: %d, %d bytes of %d", name, res.StatusCode, len(res.body), len(content))
		}
		etag := `"` + string(artifact.Of(content)) + `"`
		if res.Header.Get("ETag") != etag {
			t.Errorf("%s: ETag %s, want %s", name, res.Header.Get("ETag"), etag)
		}
		if res := ask(t, files, "GET", base+name, "If-None-Match", etag); res.StatusCode != http.StatusNotModified {
			t.Errorf("%s: %d to one who has it", name, res.StatusCode)
		}
		if res := ask(t, files, "HEAD", base+name); res.StatusCode != http.StatusOK || res.body != "" || res.ContentLength != int64(len(content)) {
			t.Errorf("HEAD %s: %d, %d bytes", name, res.StatusCode, res.ContentLength)
		}
	}

	for _, path := range []string{
		base + "notes.txt", base, strings.TrimSuffix(base, "/"), base + "pump", base + "pump/", base + "absent.onnx", base + ".", base + "..",
		base + "../../snapshots/secret", base + "pump/../manifest.json", base + "pump/model.onnx/", base + "Manifest.json", base + "model.sig\x00",
		release.FilesPath, release.FilesPath + "..", release.FilesPath + strings.ToUpper(r.Digest.Hex()) + "/manifest.json",
		release.FilesPath + artifact.Of([]byte("other")).Hex() + "/manifest.json", "/v1/other/" + r.Digest.Hex() + "/manifest.json", "/",
	} {
		if res := ask(t, files, "GET", path); res.StatusCode != http.StatusNotFound {
			t.Errorf("GET %q: %d", path, res.StatusCode)
		}
	}
	for _, method := range []string{"PUT", "POST", "DELETE", "OPTIONS"} {
		if res := ask(t, files, method, base+"manifest.json"); res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") == "" {
			t.Errorf("%s: %d", method, res.StatusCode)
		}
	}
}

func TestADownloadCanBeResumedByRange(t *testing.T) {
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	path := release.FilesPath + r.Digest.Hex() + "/pump/model.onnx"
	content := string(h.objects.kept[r.Key+"pump/model.onnx"])
	files := release.Files(h.objects, nil)
	etag := `"` + string(artifact.Of([]byte(content))) + `"`
	for _, c := range []struct {
		name, rng, ifRange string
		status             int
		want               string
	}{
		{"from the middle", "bytes=100-", "", 206, content[100:]},
		{"a part", "bytes=100-199", "", 206, content[100:200]},
		{"the tail", "bytes=-5", "", 206, content[len(content)-5:]},
		{"of the same file", "bytes=100-", etag, 206, content[100:]},
		{"of a file that changed", "bytes=100-", `"sha256:other"`, 200, content},
		{"past the end", "bytes=1000000-", "", 416, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			head := []string{"Range", c.rng}
			if c.ifRange != "" {
				head = append(head, "If-Range", c.ifRange)
			}
			res := ask(t, files, "GET", path, head...)
			if res.StatusCode != c.status || c.want != "" && res.body != c.want {
				t.Fatalf("%d with %d bytes, want %d with %d", res.StatusCode, len(res.body), c.status, len(c.want))
			}
		})
	}
	if res := ask(t, files, "GET", release.FilesPath+r.Digest.Hex()+"/"+trust.SignatureFile, "Range", "bytes=0-9"); res.StatusCode != 206 || len(res.body) != 10 {
		t.Errorf("a range of the signature: %d, %d bytes", res.StatusCode, len(res.body))
	}
}

func TestADamagedManifestServesNothingAndIsNamed(t *testing.T) {
	h := newHouse(t)
	r, err := h.builder.Build(t.Context(), twoVariants())
	if err != nil {
		t.Fatal(err)
	}
	h.objects.kept[r.Key+trust.ManifestFile] = []byte("{}")
	res := ask(t, release.Files(h.objects, nil), "GET", release.FilesPath+r.Digest.Hex()+"/pump/model.onnx")
	if res.StatusCode != http.StatusInternalServerError || !strings.Contains(res.body, "the stored manifest is damaged") {
		t.Errorf("%d %s", res.StatusCode, res.body)
	}
}
