package enrolltest_test

import (
	"testing"

	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/enroll/enrolltest"
)

func TestMemory(t *testing.T) {
	enrolltest.Exercise(t, func(*testing.T) enroll.Store { return &enrolltest.Memory{} })
}
