package registry_test

import (
	"testing"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/registry/registrytest"
)

func TestMemory(t *testing.T) { registrytest.Exercise(t, &registry.Memory{}) }
