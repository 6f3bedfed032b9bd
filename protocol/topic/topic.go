// Package topic builds and parses the MQTT topics of Swell, and says which of
// them a device may use.
//
// The parties are the agent, which publishes under its own site and node and
// subscribes to its own desired document; the hub, which reads everything; and
// any MQTT broker between them, whose access rules come from Filters. Topics
// are pure text: nothing here connects to anything.
//
// Two families exist. The control and block topics are Swell's own:
//
//	swell/v1/{site}/{node}/{blocks|frames|desired|reported|events}
//
// The live topics follow Sparkplug B 3.0:
//
//	spBv1.0/{site}/{message type}/{node}[/{device}]
package topic

import (
	"errors"
	"fmt"
	"strings"
)

// ID names one device on the wire. Both parts obey ValidName; the pair is
// unique within a hub.
type ID struct {
	Site string // the plant, depot or vehicle group; Sparkplug's group id
	Node string // the device; Sparkplug's edge node id
}

// String returns "site/node".
func (id ID) String() string { return id.Site + "/" + id.Node }

// ParseID reads the form that String writes.
func ParseID(s string) (ID, error) {
	site, node, ok := strings.Cut(s, "/")
	id := ID{Site: site, Node: node}
	if !ok {
		return ID{}, fmt.Errorf("device id %q: want site/node", s)
	}
	if err := id.Validate(); err != nil {
		return ID{}, err
	}
	return id, nil
}

// Validate reports the first part that is not a valid name.
func (id ID) Validate() error {
	if err := ValidName(id.Site); err != nil {
		return fmt.Errorf("site: %w", err)
	}
	if err := ValidName(id.Node); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return nil
}

// MaxNameLen is the most bytes a site or node name may have.
const MaxNameLen = 63

// ValidName accepts 1 to MaxNameLen bytes of a-z, 0-9, '-' and '.', starting
// and ending with a letter or digit. The set is safe in topics, file names, URLs
// and certificates alike.
func ValidName(s string) error {
	if s == "" {
		return errors.New("empty name")
	}
	if len(s) > MaxNameLen {
		return fmt.Errorf("name of %d bytes is longer than %d", len(s), MaxNameLen)
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (c != '-' && c != '.' || i == 0 || i == len(s)-1) {
			return fmt.Errorf("name %q: use a-z, 0-9, '-' and '.' between them", s)
		}
	}
	return nil
}

// Kind is the last part of a Swell topic.
type Kind string

// The kinds, with who publishes and the quality of service each is sent with.
const (
	Blocks   Kind = "blocks"   // agent → hub, QoS 1: arrays of samples and verdicts; acknowledged when durable
	Frames   Kind = "frames"   // agent → hub, QoS 1: single pictures of cameras; acknowledged when durable
	Desired  Kind = "desired"  // hub → agent, QoS 1, retained: what the device should run
	Reported Kind = "reported" // agent → hub, QoS 1: what the device runs and how it fares
	Events   Kind = "events"   // agent → hub, QoS 1: single happenings worth a line in the audit
)

const (
	prefix     = "swell/v1/"
	sparkplugB = "spBv1.0/"
)

// Of returns the topic of kind k for device id. It panics when id is invalid:
// identities are validated where they enter.
func Of(id ID, k Kind) string {
	if err := id.Validate(); err != nil {
		panic("topic.Of: " + err.Error())
	}
	return prefix + id.Site + "/" + id.Node + "/" + string(k)
}

// Message is a Sparkplug B message type.
type Message string

// The Sparkplug message types an edge node uses (Sparkplug 3.0, section 4).
const (
	NBIRTH Message = "NBIRTH"
	NDATA  Message = "NDATA"
	NDEATH Message = "NDEATH"
	NCMD   Message = "NCMD"
	DBIRTH Message = "DBIRTH"
	DDATA  Message = "DDATA"
	DDEATH Message = "DDEATH"
	DCMD   Message = "DCMD"
)

var messages = map[Message]bool{NBIRTH: true, NDATA: true, NDEATH: true, NCMD: true, DBIRTH: true, DDATA: true, DDEATH: true, DCMD: true}

// deviceLevel says whether m carries a device part after the node.
func (m Message) deviceLevel() bool { return strings.HasPrefix(string(m), "D") }

// Sparkplug returns the live topic of message type m; device is empty for node
// level messages (N…) and required for device level ones (D…).
func Sparkplug(id ID, m Message, device string) string {
	t := sparkplugB + id.Site + "/" + string(m) + "/" + id.Node
	if m.deviceLevel() {
		t += "/" + device
	}
	return t
}

// Topic is a parsed topic: either a Swell one (Kind set) or a Sparkplug one
// (Message set).
type Topic struct {
	ID      ID
	Kind    Kind    // empty for a Sparkplug topic
	Message Message // empty for a Swell topic
	Device  string  // Sparkplug device level only
}

// String returns the topic that Parse read.
func (t Topic) String() string {
	if t.Kind != "" {
		return Of(t.ID, t.Kind)
	}
	return Sparkplug(t.ID, t.Message, t.Device)
}

// MaxLen is the most bytes a topic may have; longer ones are refused unread.
const MaxLen = 256

// Parse reads a concrete topic (no wildcards).
func Parse(s string) (Topic, error) {
	if len(s) > MaxLen {
		return Topic{}, fmt.Errorf("topic of %d bytes is longer than %d", len(s), MaxLen)
	}
	if rest, ok := strings.CutPrefix(s, prefix); ok {
		p := strings.Split(rest, "/")
		if len(p) != 3 {
			return Topic{}, fmt.Errorf("topic %q: want %s{site}/{node}/{kind}", s, prefix)
		}
		t := Topic{ID: ID{p[0], p[1]}, Kind: Kind(p[2])}
		switch t.Kind {
		case Blocks, Frames, Desired, Reported, Events:
		default:
			return Topic{}, fmt.Errorf("topic %q: unknown kind %q", s, p[2])
		}
		return t, t.ID.Validate()
	}
	if rest, ok := strings.CutPrefix(s, sparkplugB); ok {
		p := strings.Split(rest, "/")
		if len(p) < 3 || len(p) > 4 {
			return Topic{}, fmt.Errorf("topic %q: want %s{group}/{message}/{node}[/{device}]", s, sparkplugB)
		}
		t := Topic{ID: ID{p[0], p[2]}, Message: Message(p[1])}
		if !messages[t.Message] {
			return Topic{}, fmt.Errorf("topic %q: unknown Sparkplug message type %q", s, p[1])
		}
		if t.Message.deviceLevel() != (len(p) == 4) {
			return Topic{}, fmt.Errorf("topic %q: %s wants a device part only at device level", s, t.Message)
		}
		if len(p) == 4 {
			t.Device = p[3]
			if err := ValidName(t.Device); err != nil {
				return Topic{}, fmt.Errorf("topic %q: device: %w", s, err)
			}
		}
		return t, t.ID.Validate()
	}
	return Topic{}, fmt.Errorf("topic %q: neither %s… nor %s…", s, prefix, sparkplugB)
}

// All returns the filter by which a hub subscribes to kind k of every device.
func All(k Kind) string { return prefix + "+/+/" + string(k) }

// Filters are the MQTT filters that bound what one device may do.
type Filters struct {
	Publish   []string
	Subscribe []string
}

// FiltersFor returns the access rules of device id: it writes and reads only
// its own topics.
func FiltersFor(id ID) Filters {
	f := Filters{
		Publish:   []string{Of(id, Blocks), Of(id, Frames), Of(id, Reported), Of(id, Events)},
		Subscribe: []string{Of(id, Desired), Sparkplug(id, NCMD, ""), sparkplugB + id.Site + "/" + string(DCMD) + "/" + id.Node + "/+"},
	}
	for _, m := range []Message{NBIRTH, NDATA, NDEATH} {
		f.Publish = append(f.Publish, Sparkplug(id, m, ""))
	}
	for _, m := range []Message{DBIRTH, DDATA, DDEATH} {
		f.Publish = append(f.Publish, sparkplugB+id.Site+"/"+string(m)+"/"+id.Node+"/+")
	}
	return f
}

// Match reports whether filter (with MQTT's + and # wildcards) covers topic.
// A filter is also matched against itself, so that a broker can decide a
// subscription by the same rule.
func Match(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, part := range f {
		if part == "#" {
			return i == len(f)-1
		}
		if i >= len(t) {
			return false
		}
		if part != "+" && part != t[i] || part == "+" && t[i] == "#" {
			return false
		}
	}
	return len(f) == len(t)
}
