package device

import (
	"errors"
	"fmt"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/twin"
)

// do performs one action: at once what cannot fail, later what answers.
func (d *Device) do(a update.Action) {
	man := a.Release.Manifest
	nature, known := d.w.Release(man, d)
	answer := func(after time.Duration, f func() update.Event) {
		if d.slow > 0 {
			after *= slowness
		}
		d.later(after, func() {
			if e := f(); e != nil {
				d.step(e)
			}
		})
	}
	done := func(r update.Release) update.Event { return update.Done{Action: a.ID, Release: r} }
	failed := func(code twin.Code, retry bool, format string, args ...any) update.Event {
		return update.Failed{Action: a.ID, Code: code, Reason: fmt.Sprintf(format, args...), Retryable: retry}
	}
	// stored turns an error of the disk into an answer; a power cut into none.
	stored := func(err error) update.Event {
		switch {
		case errors.Is(err, disk.ErrPowerCut):
			d.CutFor(d.flash.dark)
			return nil
		case errors.Is(err, errContent), errors.Is(err, errMissing):
			delete(d.loaded, man)
			return failed(twin.CodeContent, true, "%v", err)
		}
		return failed(twin.CodeDisk, true, "%v", err)
	}
	// load makes a session of the bytes in the slot.
	load := func() update.Event {
		if !known || nature.Unsigned {
			return failed(twin.CodeSignature, false, "no signature of a known key")
		}
		if err := d.flash.check(&nature); err != nil {
			return failed(twin.CodeContent, false, "%v", err)
		}
		if nature.CrashAtLoad {
			d.crash()
			return nil
		}
		d.loaded[man] = true
		return done(nature.Release)
	}
	short := d.rand.Between(10*time.Millisecond, 200*time.Millisecond)
	switch a.Kind {
	case update.ActFetch:
		wait := d.rand.Between(time.Second, 20*time.Second)
		if d.cfg.BitsPerS > 0 {
			size := nature.Bytes
			if size == 0 {
				size = 5e6
			}
			wait = time.Second + time.Duration(size*8/d.cfg.BitsPerS*float64(time.Second))
		}
		answer(wait, func() update.Event {
			switch {
			case !d.w.Online(d):
				return failed(twin.CodeFetch, true, "no connection")
			case !known:
				return failed(twin.CodeFetch, false, "the hub knows no such release")
			}
			if err := d.flash.fetch(&nature); err != nil {
				return stored(err)
			}
			return done(update.Release{})
		})
	case update.ActVerify:
		answer(short, func() update.Event {
			if !known || nature.Unsigned {
				return failed(twin.CodeSignature, false, "no signature of a known key")
			}
			if err := d.flash.stage(&nature); err != nil {
				return stored(err)
			}
			return done(nature.Release)
		})
	case update.ActGuard, update.ActTest:
		answer(short, func() update.Event { return done(update.Release{}) })
	case update.ActInterlock:
		d.permit = false
		answer(short, func() update.Event {
			switch {
			case d.blind > 0:
				return failed("", true, "the interlock cannot be read")
			case d.closed > 0:
				return failed("", true, "the interlock forbids it")
			}
			d.permit = true
			return done(update.Release{})
		})
	case update.ActLoad:
		answer(short, load)
	case update.ActResume, update.ActRollback:
		answer(short, func() update.Event {
			if man == "" {
				d.act("")
				return done(update.Release{})
			}
			if a.Kind == update.ActRollback && d.loaded[man] { // it is resident
				d.act(man)
				return done(nature.Release)
			}
			e := load()
			if _, ok := e.(update.Done); ok {
				d.act(man)
				if a.Standby != nil {
					if n, ok := d.w.Release(a.Standby.Manifest, d); ok && !n.Unsigned && d.flash.check(&n) == nil {
						d.loaded[n.Manifest] = true
					}
				}
			}
			return e
		})
	case update.ActShadow:
		answer(short, func() update.Event {
			d.score()
			d.shadowed, d.shadow, d.window = man, &twin.Shadow{}, a.WindowS
			d.open, d.openFor, d.challenger = twin.ShadowWindow{}, 0, nil
			return done(update.Release{})
		})
	case update.ActSwap:
		if !a.Return && !d.permit {
			d.w.Fault(d, "it swaps and its interlocks have not permitted it")
		}
		d.permit = false
		answer(short, func() update.Event {
			d.act(man)
			d.Swaps++
			return done(update.Release{})
		})
	case update.ActConfirm, update.ActDrop:
		d.score()
		d.shadowed, d.shadow = "", nil
	case update.ActClean:
		d.flash.clean(a.Keep)
		for m := range d.loaded {
			gone := m != d.acting
			for _, k := range a.Keep {
				gone = gone && m != k
			}
			if gone {
				delete(d.loaded, m)
			}
		}
	case update.ActCancel:
		// The answer comes all the same and the machine does not mind.
	}
}

// crash takes the agent down; the disk stays as it is, and its supervisor starts
// it again.
func (d *Device) crash() {
	d.trace("the agent dies")
	d.down()
	d.w.For(2*time.Second, d, poweredOn, d.life)
}

func (d *Device) trace(format string, args ...any) {
	if d.w.Trace != nil {
		d.w.Trace(d, fmt.Sprintf(format, args...))
	}
}

// tellChange says in words what is new.
func (d *Device) tellChange(now shown) {
	if now.acting != d.shown.acting {
		if now.acting == "" {
			d.trace("nothing acts")
		} else {
			n := d.nature(now.acting, &d.champion)
			d.trace("%s-%d acts", n.Name, n.Counter)
		}
	}
	if now.phase != d.shown.phase {
		words := ""
		if t := d.Status().Trial; t != nil {
			words = fmt.Sprintf(" (%s-%d, try %d, start %d)", t.Name, t.Counter, t.Try, t.Attempts)
			if t.Reason != "" {
				words += ": " + t.Reason
			}
		}
		d.trace("%s%s", now.phase, words)
	}
}
