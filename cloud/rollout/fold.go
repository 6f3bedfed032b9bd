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
	d.Champion, d.Trial = champion(r.Champion), trial(r.Trial)
	if t := r.Trial; t != nil {
		if t.Mode == twin.ModeTrial {
			d.Evidence = d.Evidence.take(t.Manifest, fmt.Sprintf("%s/%d/%d", r.Boot, t.Try, t.Attempts), t.Shadow)
		}
	}
	d.Program = nil
	if f := r.Firmware; f != nil {
		if p := (Program{Champion: champion(f.Running), Trial: trial(f.Trial)}); p != (Program{}) {
			d.Program = &p
		}
	}
	d.MemoryMiB, d.Metrics = r.Agent.RSSMiB, r.Metrics
	if c := r.Champion; c != nil && c.Manifest == d.Trial.Manifest && c.Drift != nil && (d.Trial.Drift == nil || *c.Drift > *d.Trial.Drift) {
		d.Trial.Drift = c.Drift // it acts now; what the shadow has shown still counts
	}
	d.WindowsScored, d.WindowsLost, d.StoppedMs = r.Stream.WindowsScored, r.Stream.WindowsLost, r.Stream.StoppedMs
	return d
}

func champion(r *twin.Running) Champion {
	if r == nil {
		return Champion{}
	}
	return Champion{Manifest: r.Manifest, Loaded: r.Model, Counter: r.Counter, Windows: r.Windows, NonFinite: r.NonFinite, LatencyP99Ms: r.LatencyP99Ms}
}

func trial(r *twin.Trial) Trial {
	if r == nil {
		return Trial{}
	}
	t := Trial{
		Rollout: r.Rollout, Manifest: r.Manifest, Mode: r.Mode, Try: r.Try, Phase: r.Phase, Code: r.Code, Reason: r.Reason,
		Lease: r.Lease, Since: r.Since, Windows: r.Windows, NonFinite: r.NonFinite, LatencyP99Ms: r.LatencyP99Ms,
	}
	if s := r.Shadow; s != nil {
		t.NonFinite += s.NonFinite
		t.Shadowed = s.Items
		t.LatencyP99Ms = max(t.LatencyP99Ms, s.LatencyP99Ms)
		t.Drift = s.Drift
	}
	return t
}
