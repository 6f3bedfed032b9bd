package api

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/protocol/artifact"
)

// PublishFirmware answers with what it was asked for in the place of a digest.
func (shelf) PublishFirmware(_ context.Context, f Firmware) (apimodel.ReleaseRef, error) {
	said := fmt.Sprint(f.Classes, f.Arch, f.Version, len(f.Program), f.Author, f.Reason)
	return apimodel.ReleaseRef{Kind: apimodel.ReleaseKindFirmware, ID: f.Name + "-1", Name: f.Name, Counter: 1, Digest: said}, nil
}

func TestFirmwareIsPublishedByAdminsInBoundedFiles(t *testing.T) {
	w := start(t)
	const asked = "/firmware?class=pump&class=fan&arch=arm64&version=2.0.0&reason=new"
	const file = "application/octet-stream"
	big := strings.Repeat("x", 2<<20) // over the limit of every other body
	for _, c := range []struct {
		name, path string
		role       auth.Role
		body       string
		status     int
		says       string
	}{
		{"as asked", asked, auth.Admin, big, 201, `"id":"swell-agent-1"`},
		{"classes, version and size arrive", asked, auth.Admin, big, 201, fmt.Sprint([]artifact.Class{"pump", "fan"}, "arm64", "2.0.0", len(big))},
		{"another family", asked + "&name=gateway", auth.Admin, "x", 201, `"id":"gateway-1"`},
		{"by an operator", asked, auth.Operator, "x", 403, ""},
		{"by an approver", asked, auth.Approver, "x", 403, ""},
		{"by nobody", asked, "", "x", 401, ""},
		{"empty", asked, auth.Admin, "", 400, "the body is empty"},
		{"without a class", "/firmware?arch=arm64&version=2", auth.Admin, "x", 400, "class"},
		{"without an architecture", "/firmware?class=pump&version=2", auth.Admin, "x", 400, "arch"},
		{"for an unknown architecture", "/firmware?class=pump&version=2&arch=pdp11", auth.Admin, "x", 400, "arch"},
		{"under a name that no release may have", asked + "&name=Agent/1", auth.Admin, "x", 400, "name"},
		{"over the limit", asked, auth.Admin, strings.Repeat("x", 64<<20+1), 413, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := w.call(t, c.role, "POST", c.path, c.body, "Content-Type", file)
			if a.StatusCode != c.status || !strings.Contains(strings.ReplaceAll(string(a.body), `" "`, " "), c.says) {
				t.Errorf("%d %.300s: want %d with %q", a.StatusCode, a.body, c.status, c.says)
			}
		})
	}
}
