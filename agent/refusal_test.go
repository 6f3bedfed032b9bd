package agent_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/onnx/onnxpb"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
	"google.golang.org/protobuf/proto"
)

// TestDeviceRefusesAndSaysWhy offers what must never be loaded to a device that
// runs release 5 of its family.
func TestDeviceRefusesAndSaysWhy(t *testing.T) {
	foreign := agenttest.NewPress()
	for _, c := range []struct {
		name   string
		make   func(press *agenttest.Press) agenttest.Release
		serve  func(w http.ResponseWriter, r *http.Request, name string, content []byte) bool
		code   twin.Code
		reason string
	}{
		{name: "signed by a key that is not trusted",
			make: func(*agenttest.Press) agenttest.Release { return foreign.Release(agenttest.Order{Counter: 6}) },
			code: twin.CodeSignature, reason: "does not trust"},
		{name: "signature with one bit flipped",
			make: func(p *agenttest.Press) agenttest.Release {
				r := p.Release(agenttest.Order{Counter: 6})
				b := r.Files[trust.SignatureFile]
				i := bytes.Index(b, []byte(`"payload":"`)) + 200
				b[i] ^= 1
				return r
			},
			code: twin.CodeSignature},
		{name: "signature of another release",
			make: func(p *agenttest.Press) agenttest.Release {
				r := p.Release(agenttest.Order{Counter: 6})
				r.Files[trust.SignatureFile] = p.Release(agenttest.Order{Counter: 7}).Files[trust.SignatureFile]
				return r
			},
			code: twin.CodeSignature, reason: "another manifest"},
		{name: "tampered weights",
			make: func(p *agenttest.Press) agenttest.Release {
				r := p.Release(agenttest.Order{Counter: 6})
				m := bytes.Clone(r.Files["pump/model.onnx"])
				m[len(m)/2] ^= 1
				r.Files["pump/model.onnx"] = m
				return r
			},
			code: twin.CodeContent, reason: "has digest"},
		{name: "manifest that was not offered",
			make: func(p *agenttest.Press) agenttest.Release {
				r, other := p.Release(agenttest.Order{Counter: 6}), p.Release(agenttest.Order{Counter: 7})
				r.Files = other.Files
				return r
			},
			code: twin.CodeContent, reason: "the hub sent manifest"},
		{name: "older counter",
			make: func(p *agenttest.Press) agenttest.Release { return p.Release(agenttest.Order{Counter: 4}) },
			code: twin.CodeCounter},
		{name: "same counter, other contents",
			make: func(p *agenttest.Press) agenttest.Release {
				return p.Release(agenttest.Order{Counter: 5, Model: agenttest.Model{Note: "other"}})
			},
			code: twin.CodeCounter},
		{name: "another device class",
			make: func(p *agenttest.Press) agenttest.Release {
				return p.Release(agenttest.Order{Counter: 6, Class: "pump2"})
			},
			code: twin.CodeClass},
		{name: "file path that escapes the slot",
			make: func(p *agenttest.Press) agenttest.Release {
				return p.Release(agenttest.Order{Counter: 6, Files: func(fs []artifact.File) []artifact.File {
					fs[0].Path = "../../update/journal.json"
					return fs
				}})
			},
			code: twin.CodeSignature, reason: "path"},
		{name: "model with external data outside the release",
			make: func(p *agenttest.Press) agenttest.Release {
				return p.Release(agenttest.Order{Counter: 6, Bytes: externalData(t, "../../../etc/passwd")})
			},
			code: twin.CodeGuard},
		{name: "server that only ever sends half the file",
			make: func(p *agenttest.Press) agenttest.Release {
				return p.Release(agenttest.Order{Counter: 6})
			},
			serve: func(w http.ResponseWriter, _ *http.Request, name string, content []byte) bool {
				if name != "pump/model.onnx" {
					return false
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				_, _ = w.Write(content[:len(content)/2]) // and the connection is cut
				return true
			},
			code: twin.CodeDeadline, reason: "fetching"},
		{name: "server that answers ranges with other bytes",
			make: func(p *agenttest.Press) agenttest.Release { return p.Release(agenttest.Order{Counter: 6}) },
			serve: func(w http.ResponseWriter, r *http.Request, name string, content []byte) bool {
				if name != "pump/model.onnx" {
					return false
				}
				wrong := bytes.Repeat([]byte("x"), len(content))
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(wrong))
				return true
			},
			code: twin.CodeContent},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
			boot(t, configure(hub, press, &disk.Mem{}))
			good := press.Release(agenttest.Order{Counter: 5})
			hub.Stock(good)
			hub.Offer(good, true, nil)
			hub.Phase(t, good, twin.PhaseConfirmed)

			bad := c.make(press)
			hub.Stock(bad)
			hub.Serve(c.serve)
			hub.Offer(bad, true, func(a *twin.Assignment) { a.Deadline = time.Now().Add(3 * time.Second) })
			r := hub.Phase(t, bad, twin.PhaseFailed, twin.PhaseConfirmed, twin.PhaseSoaking)
			if r.Trial.Phase != twin.PhaseFailed || r.Trial.Code != c.code || !strings.Contains(r.Trial.Reason, c.reason) {
				t.Errorf("phase %s, code %s, reason %q: want failed, %s, %q", r.Trial.Phase, r.Trial.Code, r.Trial.Reason, c.code, c.reason)
			}
			was := r.Stream.WindowsScored
			r = hub.Await(t, "it goes on scoring", func(r twin.Reported) bool { return r.Stream.WindowsScored > was })
			if r.Champion == nil || r.Champion.Manifest != good.Manifest || r.Stream.WindowsLost != 0 {
				t.Errorf("champion %+v, stream %+v: want release 5 and nothing lost", r.Champion, r.Stream)
			}
		})
	}
}

// externalData makes a model whose weights are said to lie in another file.
func externalData(t *testing.T, location string) []byte {
	t.Helper()
	m, err := onnx.Read(agenttest.Model{}.ONNX(), onnx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	// Field 13 (external_data) and 14 (data_location) of a tensor are not in our
	// schema: appended to the initializer as raw fields.
	entry := append([]byte{0x0a, 8}, "location"...)
	entry = append(append(entry, 0x12, byte(len(location))), location...)
	ext := append([]byte{13<<3 | 2, byte(len(entry))}, entry...)
	ext = append(ext, 14<<3, 1)
	var copy onnxpb.ModelProto
	if err := proto.Unmarshal(b, &copy); err != nil {
		t.Fatal(err)
	}
	copy.Graph.Initializer[0].ProtoReflect().SetUnknown(ext)
	b, err = proto.Marshal(&copy)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDownloadGoesOnWhereItWasCut(t *testing.T) {
	hub, press := agenttest.NewHub(t, pump), agenttest.NewPress()
	boot(t, configure(hub, press, &disk.Mem{}))
	r := press.Release(agenttest.Order{Counter: 1, Model: agenttest.Model{Note: strings.Repeat("long ", 10_000)}})
	hub.Stock(r)
	ranges := make(chan string, 100)
	hub.Serve(func(w http.ResponseWriter, req *http.Request, name string, content []byte) bool {
		if name != "pump/model.onnx" {
			return false
		}
		ranges <- req.Header.Get("Range")
		if req.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = io.Copy(w, bytes.NewReader(content[:30_000]))
		return true
	})
	hub.Offer(r, true, nil)
	hub.Phase(t, r, twin.PhaseConfirmed)
	if first, second := <-ranges, <-ranges; first != "" || second != "bytes=30000-" {
		t.Errorf("asked for %q, then %q", first, second)
	}
}
