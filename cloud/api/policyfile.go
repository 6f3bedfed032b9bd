package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/cloud/api/apimodel"
)

// ReadPolicyFile reads the rollout policy in a file that people apply, in YAML
// or JSON: the first document of that kind. Fields that are not in the contract
// are errors. The simulator plays such files.
func ReadPolicyFile(doc []byte) (RolloutPolicy, error) {
	for d := yaml.NewDecoder(bytes.NewReader(doc)); ; {
		var text yaml.Node
		switch err := d.Decode(&text); {
		case errors.Is(err, io.EOF):
			return RolloutPolicy{}, fmt.Errorf("there is no %s in the file", RolloutPolicyKind)
		case err != nil:
			return RolloutPolicy{}, fmt.Errorf("read the policy: %w", err)
		}
		asWritten(&text)
		var o map[string]any
		if err := text.Decode(&o); err != nil {
			return RolloutPolicy{}, fmt.Errorf("read the policy: %w", err)
		}
		if o["kind"] != RolloutPolicyKind {
			continue
		}
		b, err := json.Marshal(o)
		if err != nil {
			return RolloutPolicy{}, fmt.Errorf("read the policy: %w", err)
		}
		var p apimodel.RolloutPolicy
		in := json.NewDecoder(bytes.NewReader(b))
		in.DisallowUnknownFields()
		if err := in.Decode(&p); err != nil {
			return RolloutPolicy{}, fmt.Errorf("read the policy: %w", err)
		}
		return policyOf(p.Metadata.Name, p.Spec)
	}
}

// asWritten keeps YAML from reading 2026-12-24 as a time: the contract wants
// the text.
func asWritten(n *yaml.Node) {
	if n.Tag == "!!timestamp" {
		n.Tag = "!!str"
	}
	for _, c := range n.Content {
		asWritten(c)
	}
}
