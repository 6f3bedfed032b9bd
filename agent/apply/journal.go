package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
)

const maxJournalBytes = 1 << 20

// LoadJournal reads an update machine's journal. It returns nil where there is
// none. One that cannot be read is an
// error: without it the device does not know what it may run.
func LoadJournal(d disk.FS, name string) (*update.Journal, error) {
	b, err := disk.ReadFile(d, name, maxJournalBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var j update.Journal
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return &j, nil
}
