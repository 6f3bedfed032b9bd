package swell_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/swellfleet/swell"

// listed is the part of `go list -json` that the rules need.
type listed struct {
	ImportPath string
	Name       string
	Dir        string
	Standard   bool
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
	Deps       []string
}

// rule forbids packages under From to reach packages under To, directly or,
// unless Direct is set, through others. Except names From packages that may.
type rule struct {
	From   string
	To     []string
	Except []string
	Direct bool
	Why    string
}

var rules = []rule{
	{From: "agent", To: []string{"cloud", "simulator"}, Why: "a device must build and run without the hub"},
	{From: "cloud", To: []string{"agent", "simulator"}, Why: "the hub knows devices by protocol alone"},
	{From: "protocol", To: []string{"agent", "cloud", "models", "firmware", "simulator"}, Why: "protocol is a leaf"},
	{From: "models", To: []string{"agent", "cloud", "simulator", "firmware"}, Why: "models import at most protocol"},
	{From: "firmware", To: []string{"agent", "cloud", "simulator", "models"}, Why: "firmware imports at most protocol"},
	{From: "agent", To: []string{"models/train", "models/zoo"}, Why: "devices score, they do not train"},
	{From: "", To: []string{"simulator"}, Except: []string{"simulator"}, Why: "nothing imports the simulator"},

	{From: "", To: []string{"github.com/labstack/echo/v4"}, Except: []string{"cloud/api"}, Direct: true, Why: "HTTP for people lives in cloud/api"},
	{From: "", To: []string{"github.com/mochi-mqtt", "github.com/eclipse/paho.mqtt.golang"}, Except: []string{"cloud/broker", "agent/link", "agent/source/mqtt", "agent/interlock", "simulator"}, Direct: true, Why: "MQTT libraries stay behind the broker and the link; an interlock asks the plant's own broker"},
	{From: "", To: []string{"database/sql", "modernc.org/sqlite", "github.com/jackc/pgx"}, Except: []string{"cloud/store", "cloud/retrain/engine"}, Direct: true, Why: "SQL lives in cloud/store, and in the handle that the workflow engine is given"},
	{From: "", To: []string{"github.com/dbos-inc"}, Except: []string{"cloud/retrain/engine"}, Direct: true, Why: "the workflow engine can be replaced"},
	{From: "", To: []string{"github.com/sigstore"}, Except: []string{"cloud/release/signing"}, Direct: true, Why: "cosign is a signer among others"},
	{From: "", To: []string{"github.com/yalue/onnxruntime_go"}, Except: []string{"models/runtime"}, Direct: true, Why: "one owner of the native library"},
	{From: "", To: []string{"github.com/minio"}, Except: []string{"cloud/objects"}, Direct: true, Why: "S3 lives behind cloud/objects"},
	{From: "", To: []string{"github.com/google/cel-go"}, Except: []string{"cloud/rollout/expr"}, Direct: true, Why: "the language of gates lives behind cloud/rollout/expr"},
	{From: "", To: []string{"github.com/influxdata"}, Except: []string{"cloud/series/influx"}, Direct: true, Why: "InfluxDB lives behind cloud/series"},
	{From: "agent", To: []string{"os"}, Except: []string{"agent/disk", "agent/cmd"}, Direct: true, Why: "device files go through agent/disk, so that power cuts can be tested"},
}

// osAllowed are the agent's packages that use os for something that is not
// the device's state, each with the reason.
var osAllowed = map[string]string{
	"agent/health":           "reads /proc",
	"agent/source/replay":    "reads the user's recordings",
	"agent/source/images":    "reads the user's pictures",
	"agent/actions":          "none of its files are state",
	"agent":                  "reads the configuration file",
	"agent/link":             "reads certificates the operator gives",
	"agent/interlock":        "reads what the plant writes, and certificates the operator gives",
	"agent/enroll":           "reads the CA file the operator gives",
	"agent/apply":            "starts the trial child process",
	"agent/scorer":           "reads /proc/self",
	"agent/source/synthetic": "",
}

// pure packages decide and do nothing else.
var pure = []string{"protocol/topic", "protocol/twin", "protocol/artifact", "cloud/rollout", "cloud/rollout/calendar", "cloud/rollout/expr", "cloud/selector", "agent/update", "firmware/slot", "models/contract"}

var impure = map[string]bool{
	"os": true, "net": true, "net/http": true, "log": true, "log/slog": true, "context": true,
	"math/rand": true, "math/rand/v2": true, "crypto/rand": true, "sync": true, "sync/atomic": true,
	"io/fs": true, "os/exec": true, "syscall": true,
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Name,Dir,Standard,GoFiles,CgoFiles,Imports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(out); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(p.ImportPath, module) {
			all = append(all, p)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages of the module: the rules would hold for nothing", len(all))
	}
	return all
}

// local returns p without the module's prefix.
func local(p string) string { return strings.TrimPrefix(strings.TrimPrefix(p, module), "/") }

func under(p, root string) bool { return root == "" || p == root || strings.HasPrefix(p, root+"/") }

func anyUnder(p string, roots []string) bool {
	for _, r := range roots {
		if under(p, r) {
			return true
		}
	}
	return false
}

// TestImportsFollowTheRules checks every rule of ARCHITECTURE.md over the
// transitive imports of every package.
func TestImportsFollowTheRules(t *testing.T) {
	for _, p := range packages(t) {
		from := local(p.ImportPath)
		for _, r := range rules {
			if !under(from, r.From) || anyUnder(from, r.Except) {
				continue
			}
			reached := p.Deps
			if r.Direct {
				reached = p.Imports
			}
			for _, dep := range reached {
				to := dep
				if strings.HasPrefix(dep, module) {
					to = local(dep)
				}
				for _, forbidden := range r.To {
					if !under(to, forbidden) || to == "os" && osAllowed[from] != "" || to == from || r.From != "" && under(to, r.From) {
						continue
					}
					if r.To[0] == "os" && dep != "os" {
						continue
					}
					t.Errorf("%s reaches %s: %s", from, to, r.Why)
				}
			}
		}
	}
}

// TestProtocolImportsAlmostNothing keeps the leaf a leaf.
func TestProtocolImportsAlmostNothing(t *testing.T) {
	allowed := []string{"golang.org/x/crypto", "golang.org/x/mod", "google.golang.org/protobuf/encoding/protowire", module + "/protocol"}
	for _, p := range packages(t) {
		if !under(local(p.ImportPath), "protocol") {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(strings.SplitN(i, "/", 2)[0], ".") && !anyUnder(i, allowed) {
				t.Errorf("%s imports %s: protocol imports the standard library, x/crypto, x/mod and protowire", local(p.ImportPath), i)
			}
		}
	}
}

// TestPurePackagesDecideOnly refuses imports that read a clock, draw
// randomness, do I/O or start goroutines, and calls of time.Now.
func TestPurePackagesDecideOnly(t *testing.T) {
	found := 0
	for _, p := range packages(t) {
		from := local(p.ImportPath)
		if !anyOf(from, pure) {
			continue
		}
		found++
		for _, i := range p.Imports {
			if impure[i] {
				t.Errorf("%s imports %s: it is pure", from, i)
			}
		}
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{"time.Now(", "time.Since(", "time.After(", "\tgo func", "go func("} {
				if strings.Contains(string(src), bad) {
					t.Errorf("%s/%s uses %s: time and concurrency are the caller's", from, f, strings.TrimSpace(bad))
				}
			}
		}
	}
	if found == 0 {
		t.Fatal("no pure package found")
	}
}

func anyOf(s string, list []string) bool {
	for _, l := range list {
		if s == l {
			return true
		}
	}
	return false
}

// TestEveryPackageSaysWhatItIsFor wants a package comment, and main packages
// only under cmd.
func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		at := local(p.ImportPath)
		if p.Name == "main" && path.Base(path.Dir(at)) != "cmd" {
			t.Errorf("%s is a main package outside */cmd/*", at)
		}
		for _, word := range []string{"common", "util", "utils", "helpers", "types", "misc"} {
			if path.Base(at) == word {
				t.Errorf("%s: say what the package is for in its name", at)
			}
		}
		files := append(append([]string{}, p.GoFiles...), p.CgoFiles...)
		if len(files) == 0 {
			continue // tests only
		}
		said, err := hasComment(p.Dir, files)
		if err != nil {
			t.Fatal(err)
		}
		if !said {
			t.Errorf("%s has no package comment", at)
		}
	}
}

func hasComment(dir string, files []string) (bool, error) {
	for _, f := range files {
		ast, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", f, err)
		}
		if ast.Doc != nil && len(ast.Doc.Text()) > 40 {
			return true, nil
		}
	}
	return false, nil
}

// TestGivenPackagesAreInUse keeps the six libraries the product is built on in
// real, non-test use.
func TestGivenPackagesAreInUse(t *testing.T) {
	used := map[string]string{
		"github.com/eclipse/paho.mqtt.golang":         "",
		"github.com/minio/minio-go/v7":                "",
		"github.com/yalue/onnxruntime_go":             "",
		"github.com/influxdata/influxdb-client-go/v2": "",
		"github.com/sigstore/cosign/v2":               "",
		"github.com/labstack/echo/v4":                 "",
	}
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			for lib := range used {
				if under(i, lib) {
					used[lib] = p.ImportPath
				}
			}
		}
	}
	for lib, by := range used {
		if by == "" {
			t.Errorf("%s is imported by no package", lib)
		}
	}
}
