package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/scenario"
)

// files reads what scenarios in a folder name: policy files as 'swellctl apply'
// takes them, and lists of devices as 'swellctl get devices -o json' prints.
func files(folder string) scenario.Files {
	at := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(folder, name)
	}
	return scenario.Files{
		Policy: func(name string) (rollout.Policy, string, error) { return readPolicy(at(name)) },
		Fleet:  func(name string) ([]scenario.Group, error) { return readDevices(at(name)) },
	}
}

func readPolicy(path string) (rollout.Policy, string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return rollout.Policy{}, "", fmt.Errorf("cannot read the policy: %w", err)
	}
	p, err := api.ReadPolicyFile(b)
	if err != nil {
		return rollout.Policy{}, "", fmt.Errorf("%s: %w", path, err)
	}
	return p.Policy, p.Selector, nil
}

// device is what a scenario takes of a device of the REST contract.
type device struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Labels map[string]string `yaml:"labels"`
	} `yaml:"metadata"`
	Spec struct {
		Site  string `yaml:"site"`
		Node  string `yaml:"node"`
		Class string `yaml:"class"`
	} `yaml:"spec"`
	Status struct {
		RetiredAt *time.Time `yaml:"retiredAt"`
	} `yaml:"status"`
}

// readDevices reads devices as JSON or YAML: a list, or an object with items.
func readDevices(path string) ([]scenario.Group, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the devices: %w", err)
	}
	var list []device
	var object struct {
		Items []device `yaml:"items"`
	}
	if err := yaml.Unmarshal(b, &list); err != nil { // JSON is YAML
		if err := yaml.Unmarshal(b, &object); err != nil {
			return nil, fmt.Errorf("read the devices in %s: %w", path, err)
		}
		list = object.Items
	}
	var out []scenario.Group
	for i, d := range list {
		if d.Kind != "Device" {
			return nil, fmt.Errorf("%s: object %d is a %q: want what 'swellctl get devices -o json' prints", path, i+1, d.Kind)
		}
		if d.Status.RetiredAt != nil {
			continue
		}
		if err := (topic.ID{Site: d.Spec.Site, Node: d.Spec.Node}).Validate(); err != nil {
			return nil, fmt.Errorf("%s: device %d: %w", path, i+1, err)
		}
		delete(d.Metadata.Labels, "site")
		delete(d.Metadata.Labels, "class")
		out = append(out, scenario.Group{Devices: 1, Site: d.Spec.Site, Node: d.Spec.Node, Class: artifact.Class(d.Spec.Class), Labels: d.Metadata.Labels, Exact: true})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %w", path, errors.New("there is no device in it: 'swellctl get devices -o json' prints them"))
	}
	return out, nil
}

// isDevices says whether a file holds JSON, and so a list of devices.
func isDevices(b []byte) bool { return json.Valid(b) }
