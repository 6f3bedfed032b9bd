package pipeline

import (
	"slices"
	"time"

	"github.com/swellfleet/swell/protocol/twin"
)

// shadow counts what champion and challenger flagged on the same windows.
type shadow struct {
	every time.Duration
	began time.Time // of the open counting window
	open  twin.ShadowWindow
	sum   twin.Shadow
}

// count takes in one window that both scored.
func (s *shadow) count(champion, challenger bool) {
	s.sum.Items++
	s.open.Items++
	switch {
	case champion && challenger:
		s.sum.Both++
	case champion:
		s.sum.OnlyChampion++
		s.open.OnlyChampion++
	case challenger:
		s.sum.OnlyChallenger++
		s.open.OnlyChallenger++
	}
}

// close ends the counting windows that are over. A clock that jumps closes one
// window, not thousands of empty ones.
func (s *shadow) close(now time.Time) {
	if passed := now.Sub(s.began); passed >= 0 && passed < s.every {
		return
	}
	s.began = now
	s.sum.Windows = append(s.sum.Windows, s.open)
	s.open = twin.ShadowWindow{}
	if extra := len(s.sum.Windows) - twin.MaxShadowWindows; extra > 0 {
		s.sum.Windows = slices.Delete(s.sum.Windows, 0, extra)
		s.sum.Index += uint64(extra)
	}
}

func (s *shadow) report() twin.Shadow {
	r := s.sum
	r.Windows = slices.Clone(r.Windows)
	return r
}
