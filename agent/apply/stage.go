package apply

import (
	"io"
	"log/slog"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// StagerConfig says what a Stager works with. All fields are required unless
// noted.
type StagerConfig struct {
	Disk disk.FS
	// Roots returns the keys that are believed now: a device that has not
	// enrolled yet may not know them.
	Roots func() trust.Roots
	Kind  artifact.Kind // the only kind it believes
	Class artifact.Class
	Arch  string // GOARCH
	// Folder is where releases lie, one folder each. It must exist.
	Folder string
	Log    *slog.Logger

	// Base is the address of the release server, without a slash at its end;
	// Client carries the device's certificate.
	Base   string
	Client *http.Client
	// ByteBudget caps what a release may download until it is dropped, retries
	// and restarts of the agent included.
	ByteBudget int64
	// Stall ends a download that brings no byte for so long. 0 means 30 s.
	Stall time.Duration
}

// Stager brings releases of one kind to the disk and says whether they are to
// be believed. Models and firmware come by the same one. Its errors carry what
// the update machine wants to know: see Runner.
type Stager struct {
	config StagerConfig

	mu    sync.Mutex
	spent map[artifact.Digest]int64 // bytes downloaded, and before this run of the agent where counted
	// counted says that the count on the disk was taken in.
	counted map[artifact.Digest]bool
}

// NewStager makes a Stager.
func NewStager(c StagerConfig) *Stager {
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	return &Stager{config: c, spent: map[artifact.Digest]int64{}, counted: map[artifact.Digest]bool{}}
}

// Verified checks a release that is staged once more, down to the last byte,
// and returns its manifest and this device's variant.
func (s *Stager) Verified(d artifact.Digest) (artifact.Manifest, artifact.Variant, error) {
	m, v, err := s.verifyAt(s.slot(d), d)
	if err != nil {
		return m, v, Refuse(twin.CodeContent, err)
	}
	return m, v, nil
}

// Open opens a file of a staged release.
func (s *Stager) Open(d artifact.Digest, f artifact.File) (io.ReadCloser, error) {
	return s.config.Disk.Open(path.Join(s.slot(d), f.Path))
}

func (s *Stager) slot(d artifact.Digest) string  { return path.Join(s.config.Folder, d.Hex()) }
func (s *Stager) count(d artifact.Digest) string { return s.slot(d) + ".spent" }
func (s *Stager) part(d artifact.Digest) string  { return s.slot(d) + ".part" }
