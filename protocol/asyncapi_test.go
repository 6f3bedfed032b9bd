package protocol_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/protocol"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

func asyncapi(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// at follows a path of keys.
func at(doc any, path ...string) any {
	for _, key := range path {
		m, _ := doc.(map[string]any)
		doc = m[key]
	}
	return doc
}

func TestAsyncAPIHasTheTopicsOfPackageTopic(t *testing.T) {
	doc := asyncapi(t)
	if got, want := at(doc, "info", "version"), fmt.Sprint(protocol.Version); got != want {
		t.Errorf("version %v, want %s", got, want)
	}
	var got []string
	for _, channel := range at(doc, "channels").(map[string]any) {
		got = append(got, at(channel, "address").(string))
	}
	id := topic.ID{Site: "a-site", Node: "a-node"}
	var want []string
	for _, k := range []topic.Kind{topic.Blocks, topic.Frames, topic.Desired, topic.Reported, topic.Events} {
		want = append(want, topic.Of(id, k))
	}
	for _, m := range []topic.Message{topic.NBIRTH, topic.NDATA, topic.NDEATH, topic.NCMD} {
		want = append(want, topic.Sparkplug(id, m, ""))
	}
	for i := range want {
		want[i] = strings.NewReplacer(id.Site, "{site}", id.Node, "{node}").Replace(want[i])
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("addresses\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAsyncAPIRefersOnlyToWhatIsThere(t *testing.T) {
	doc := asyncapi(t)
	var walk func(where string, v any)
	walk = func(where string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, x := range v {
				if key == "$ref" {
					path, ok := strings.CutPrefix(x.(string), "#/")
					if !ok || at(doc, strings.Split(path, "/")...) == nil {
						t.Errorf("%s: %v leads nowhere", where, x)
					}
				}
				walk(where+"/"+key, x)
			}
		case []any:
			for i, x := range v {
				walk(fmt.Sprintf("%s/%d", where, i), x)
			}
		}
	}
	walk("", doc)
}

func TestAsyncAPINamesTheFieldsOfTheDocuments(t *testing.T) {
	doc := asyncapi(t)
	for schema, value := range map[string]any{"desired": twin.Desired{}, "assignment": twin.Assignment{}, "lease": twin.Lease{}, "reported": twin.Reported{}} {
		t.Run(schema, func(t *testing.T) {
			var want, got []string
			for f := range reflect.TypeOf(value).Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				want = append(want, name)
			}
			properties := at(doc, "components", "schemas", schema, "properties").(map[string]any)
			for name := range properties {
				got = append(got, name)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("properties %v\nwant %v", got, want)
			}
			required, _ := at(doc, "components", "schemas", schema, "required").([]any)
			for _, name := range required {
				if properties[name.(string)] == nil {
					t.Errorf("%v is required but has no schema", name)
				}
			}
		})
	}
}
