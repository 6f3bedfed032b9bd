package ctl

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

var (
	labels = kind{name: "labels", columns: []column{
		{"DEVICE", "device", false}, {"VALUE", "value", false}, {"FROM", "from", false}, {"TO", "to", false}, {"FRAME", "frame", false}, {"BY", "by", false}, {"SAID", "at", false}, {"REASON", "reason", true},
	}}
	frames = kind{name: "frames", columns: []column{
		{"FRAME", "digest", false}, {"DEVICE", "device", false}, {"CLASS", "class", false}, {"TAKEN", "at", false}, {"WHY", "why", false}, {"LOOKS LIKE", "top", false}, {"SURE", "topProbability", false},
		{"SCORE", "score", true}, {"BYTES", "bytes", true}, {"RELEASE", "release", true},
	}}
	garden = kind{name: "models in the garden", columns: []column{
		{"NAME", "name", false}, {"STAGE", "stage", false}, {"BYTES", "bytes", false}, {"INPUT", "input", false}, {"SINCE", "at", false}, {"SOURCE", "source", true}, {"NOTES", "notes", true}, {"DIGEST", "digest", true},
	}}
)

func (e *env) labelAdd() *cobra.Command {
	var from, to, frame string
	c := e.mutating(&cobra.Command{
		Use: "add VALUE [SITE/NODE]", Short: "Say what a stretch of a device's data, or a frame, was", Args: args(cobra.RangeArgs(1, 2)),
		Long: `add says that a device's data from --from up to --to was an "anomaly", was
"normal" (a false alarm), or that you are "unsure"; of a frame, name its class.
It enters the next night. The newest word of a person on the same target counts.`,
		Example: "  swellctl label add normal hall-1/press-03 --from 2026-11-22T10:00:00Z --to 2026-11-22T10:05:00Z --reason 'a test run'",
		RunE: func(c *cobra.Command, a []string) error {
			l := object{"value": a[0]}
			switch {
			case len(a) == 1 && frame != "" && from == "" && to == "":
				l["frame"] = frame
			case len(a) == 2 && frame == "":
				begin, err := moment(from)
				if err != nil {
					return usage("--from: %w", err)
				}
				end, err := moment(to)
				if err != nil {
					return usage("--to: %w", err)
				}
				l["device"], l["from"], l["to"] = a[1], begin, end
			default:
				return usage("name either SITE/NODE with --from and --to, or --frame DIGEST")
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			if err := h.do(ctx, http.MethodPost, "/labels", e.query(), object{"items": []any{l}}, nil); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "Said: %s. The next night learns from it.\n", a[0])
			return nil
		},
	}, false)
	c.Flags().StringVar(&from, "from", "", "beginning of the stretch, as in 2026-11-22T10:00:00Z")
	c.Flags().StringVar(&to, "to", "", "its end")
	c.Flags().StringVar(&frame, "frame", "", "digest of a frame, as in 'frames queue'")
	return c
}

func (e *env) labelList() *cobra.Command {
	return &cobra.Command{
		Use: "list [SITE/NODE]", Short: "List what people said of data and frames", Args: args(cobra.MaximumNArgs(1)), ValidArgsFunction: e.names("devices"),
		Example: "  swellctl label list hall-1/press-03",
		RunE: func(c *cobra.Command, a []string) error {
			q := url.Values{}
			if len(a) == 1 {
				q.Set("device", a[0])
			}
			return e.listing(c, labels, "/labels", q)
		},
	}
}

func (e *env) frames() *cobra.Command {
	var class, device string
	var unlabelled bool
	list := &cobra.Command{
		Use: "list", Short: "List pictures that devices uploaded", Args: args(cobra.NoArgs),
		Example: "  swellctl frames list --unlabelled",
		RunE: func(c *cobra.Command, _ []string) error {
			q := url.Values{}
			if class != "" {
				q.Set("class", class)
			}
			if device != "" {
				q.Set("device", device)
			}
			if unlabelled {
				q.Set("unlabelled", "true")
			}
			return e.listing(c, frames, "/frames", q)
		},
	}
	list.Flags().StringVar(&class, "class", "", "only of this device class")
	list.Flags().StringVar(&device, "device", "", "only of this device, SITE/NODE")
	list.Flags().BoolVar(&unlabelled, "unlabelled", false, "only those that nobody labelled")
	var queued string
	queue := &cobra.Command{
		Use: "queue", Short: "List the frames that are most worth a look, the least sure first", Args: args(cobra.NoArgs),
		Example: "  swellctl frames queue",
		RunE: func(c *cobra.Command, _ []string) error {
			q := url.Values{}
			if queued != "" {
				q.Set("class", queued)
			}
			return e.listing(c, frames, "/frames/queue", q)
		},
	}
	queue.Flags().StringVar(&queued, "class", "", "only of this device class")
	var file string
	get := &cobra.Command{
		Use: "get FRAME", Short: "Save a frame's picture", Args: args(cobra.ExactArgs(1)),
		Example: "  swellctl frames get $(swellctl frames queue -o name | head -1) --file defect.jpg",
		RunE: func(c *cobra.Command, a []string) error {
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			resp, err := h.send(ctx, http.MethodGet, "/frames/"+url.PathEscape(a[0])+"/image", nil, nil)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			if file == "" {
				_, err := io.Copy(e.out, io.LimitReader(resp.Body, maxAnswer))
				return err
			}
			b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
			if err != nil {
				return err
			}
			if err := os.WriteFile(file, b, 0o600); err != nil {
				return err
			}
			fmt.Fprintf(e.err, "%s: %d bytes\n", file, len(b))
			return nil
		},
	}
	get.Flags().StringVar(&file, "file", "", "where to (default the standard output)")
	c := &cobra.Command{Use: "frames", Short: "Look at pictures that devices uploaded"}
	c.AddCommand(list, queue, get)
	return c
}

func (e *env) garden() *cobra.Command {
	c := &cobra.Command{Use: "garden", Short: "Bring models from outside, for policies to build on"}
	var name string
	in := e.mutating(&cobra.Command{
		Use: "import FILE|URL", Short: "Take an ONNX model in", Args: args(cobra.ExactArgs(1)),
		Long:    "import checks an ONNX model with the limits that devices set, adapts it to the\nmodel contract and keeps it under a name that retrain policies can use. What\ncannot be used is refused with the reasons.",
		Example: "  swellctl garden import mobilenet.onnx --name mobilenet --reason 'for the cameras'",
		RunE: func(c *cobra.Command, a []string) error {
			q, file := e.query(), upload(nil)
			if strings.HasPrefix(a[0], "https://") {
				q.Set("url", a[0])
			} else {
				b, err := os.ReadFile(a[0])
				if err != nil {
					return usage("%w", err)
				}
				file = b
			}
			if name == "" {
				base := filepath.Base(a[0])
				name = strings.ToLower(strings.TrimSuffix(base, filepath.Ext(base)))
			}
			q.Set("name", name)
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var body any
			if file != nil {
				body = file
			}
			var o object
			if err := h.do(ctx, http.MethodPost, "/garden/import", q, body, &o); err != nil {
				return err
			}
			notes, _ := at(o, "notes").([]any)
			for _, n := range notes {
				fmt.Fprintf(e.err, "- %v\n", n)
			}
			return e.show(garden, []object{o}, true)
		},
	}, false)
	in.Flags().StringVar(&name, "name", "", "name that policies call it by (default from the file)")
	c.AddCommand(in, &cobra.Command{
		Use: "list", Short: "List models that were brought", Args: args(cobra.NoArgs),
		Example: "  swellctl garden list",
		RunE: func(c *cobra.Command, _ []string) error {
			return e.wholeList(c, garden, "/garden")
		},
	})
	return c
}
