package rollout

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// degrading are the conditions that make a device unavailable to its group.
var degrading = []string{"NoModel", "SourceStalled", "ScorerStalled", "DiskPressure"}

// Fold returns the facts about a device after a report that arrived at the
// hub's time at. The zero Device is one never heard of. A will message only
// marks it as disconnected. A report of a boot and sequence already folded
// changes nothing but SeenAt; the caller keeps reports of one device in order.
// Labels that an administrator set are the caller's to lay over those reported.
func Fold(d Device, r twin.Reported, at time.Time) Device {
	d.ID = topic.ID{Site: r.Site, Node: r.Node}
	if r.Offline {
		d.Connected = false
		return d
	}
	d.Connected = true
	d.SeenAt = at
	d.Class, d.Arch = r.Class, r.Agent.Arch
	d.Labels = maps.Clone(r.Labels)
	if d.Labels == nil {
		d.Labels = map[string]string{}
	}
	d.Labels["site"], d.Labels["class"] = r.Site, string(r.Class)
	d.Generation = max(d.Generation, r.Generation)
	d.Degraded = slices.ContainsFunc(r.Conditions, func(c twin.Condition) bool {
		return c.Status && slices.Contains(degrading, c.Type)
	})
	d.Champion = Champion{}
	if c := r.Champion; c != nil {
		d.Champion = Champion{Manifest: c.Manifest, Loaded: c.Model, Counter: c.Counter, Windows: c.Windows, NonFinite: c.NonFinite, LatencyP99Ms: c.LatencyP99Ms}
	}
	d.Trial = Trial{}
	if t := r.Trial; t != nil {
		d.Trial = Trial{
			Rollout: t.Rollout, Manifest: t.Manifest, Mode: t.Mode, Try: t.Try, Phase: t.Phase, Code: t.Code, Reason: t.Reason,
			Lease: t.Lease, Windows: t.Windows, NonFinite: t.NonFinite, LatencyP99Ms: t.LatencyP99Ms,
		}
		if s := t.Shadow; s != nil {
			d.Trial.NonFinite += s.NonFinite
			d.Trial.Shadowed = s.Items
			d.Trial.LatencyP99Ms = max(d.Trial.LatencyP99Ms, s.LatencyP99Ms)
		}
		if t.Mode == twin.ModeTrial {
			d.Evidence = d.Evidence.take(t.Manifest, fmt.Sprintf("%s/%d/%d", r.Boot, t.Try, t.Attempts), t.Shadow)
		}
	}
	d.WindowsScored, d.WindowsLost = r.Stream.WindowsScored, r.Stream.WindowsLost
	return d
}
