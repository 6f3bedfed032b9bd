package evaluate

import (
	"encoding/json"

	"github.com/swellfleet/swell/models/zoo"
)

func readConfig(text string, c *zoo.Config) error { return json.Unmarshal([]byte(text), c) }
