package s3_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/objects/embedded"
	"github.com/swellfleet/swell/cloud/objects/objectstest"
	"github.com/swellfleet/swell/cloud/objects/s3"
)

func TestMain(m *testing.M) {
	embedded.MaybeRunChild()
	os.Exit(m.Run())
}

// server runs versitygw and returns how to reach it as any S3 server.
func server(t *testing.T) s3.Config {
	t.Helper()
	root := t.TempDir()
	e, err := embedded.Open(t.Context(), embedded.Config{Dir: root, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	b, err := os.ReadFile(filepath.Join(root, "credentials.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		AccessKey string `json:"access_key"`
		SecretKey string `json:"secret_key"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return s3.Config{Endpoint: e.Listen(), Insecure: true, Bucket: "fleet", AccessKey: c.AccessKey, SecretKey: c.SecretKey}
}

func TestExerciseUnderAPrefix(t *testing.T) {
	cfg := server(t)
	cfg.Prefix = "plants/north/"
	s, err := s3.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	objectstest.Exercise(t, s)
}

func TestAWrongSecretIsSaidAtOpen(t *testing.T) {
	cfg := server(t)
	cfg.SecretKey = "wrong"
	_, err := s3.Open(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), cfg.Endpoint) || !strings.Contains(err.Error(), "fleet") {
		t.Errorf("%v, want an error that names the bucket and the server", err)
	}
}

func TestValidateNamesWhatIsMissing(t *testing.T) {
	ok := s3.Config{Endpoint: "h:1", Bucket: "b", AccessKey: "a", SecretKey: "s"}
	for want, change := range map[string]func(*s3.Config){
		"endpoint":   func(c *s3.Config) { c.Endpoint = "" },
		"bucket":     func(c *s3.Config) { c.Bucket = "" },
		"access key": func(c *s3.Config) { c.AccessKey = "" },
		"secret key": func(c *s3.Config) { c.SecretKey = "" },
		"prefix":     func(c *s3.Config) { c.Prefix = "a" },
	} {
		c := ok
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a word on %q", err, want)
		}
	}
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
}
