package embedded

import (
	"fmt"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/swellfleet/swell/protocol/topic"
)

// hook is where mochi asks and tells. It calls all methods of one client from
// that client's goroutine.
type hook struct {
	mqtt.HookBase
	b *Broker
}

// ID names the hook to mochi.
func (h *hook) ID() string { return "swell" }

// Provides lists the methods below.
func (h *hook) Provides(m byte) bool {
	switch m {
	case mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish,
		mqtt.OnPacketRead, mqtt.OnPacketProcessed, mqtt.OnSubscribed, mqtt.OnUnsubscribed:
		return true
	}
	return false
}

func sessionOf(cl *mqtt.Client) *session { return cl.Net.Conn.(*conn).session }

// OnConnectAuthenticate finds out who connects.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	c := cl.Net.Conn.(*conn)
	s, err := h.authenticate(cl, c, pk)
	if err != nil {
		h.b.rejected.Add(1)
		c.log.Warn("broker refused a device", "client_id", clip(pk.Connect.ClientIdentifier), "error", err)
		return false
	}
	// The session begins here, before mochi ends an older one of the same device:
	// a takeover must not look like an absence.
	c.session = s
	h.b.begin(s)
	return true
}

func (h *hook) authenticate(cl *mqtt.Client, c *conn, pk packets.Packet) (*session, error) {
	var id topic.ID
	var err error
	if c.cert != nil {
		if id, err = h.b.cfg.Authorize(c.cert); err != nil {
			return nil, err
		}
	} else if id, err = topic.ParseID(pk.Connect.ClientIdentifier); err != nil {
		return nil, err
	}
	if pk.Connect.ClientIdentifier != id.String() {
		return nil, fmt.Errorf("the client id must be %q, the identity in the certificate", id)
	}
	s := newSession(h.b, id, cl, c)
	if pk.Connect.WillFlag {
		t, err := topic.Parse(pk.Connect.WillTopic)
		if err == nil && !covered(s.acl.Publish, pk.Connect.WillTopic) {
			err = fmt.Errorf("will on topic %q is not its own", clip(pk.Connect.WillTopic))
		}
		if err != nil {
			s.stop(err)
			return nil, err
		}
		s.will = &will{topic: t, payload: pk.Connect.WillPayload}
	}
	// The will is sent by end: mochi forgets it when a session is stopped while
	// its reader is busy, and keeps it back for a delay that no session outlives.
	cl.Properties.Will = mqtt.Will{}
	// No session outlives its connection, whatever the device asked for.
	cl.Properties.Clean = true
	return s, nil
}

// OnACLCheck lets a device write and read its own topics alone.
func (h *hook) OnACLCheck(cl *mqtt.Client, name string, write bool) bool {
	s := sessionOf(cl)
	allowed := s.acl.Subscribe
	if write {
		allowed = s.acl.Publish
	}
	if covered(allowed, name) {
		return true
	}
	h.b.rejected.Add(1)
	s.log.Warn("device used a topic that is not its own", "topic", clip(name), "write", write)
	return false
}

// OnPacketRead sees each packet before mochi acts on it.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	s := sessionOf(cl)
	if s == nil {
		return pk, nil // CONNECT
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if pk.FixedHeader.Qos > 1 {
			h.b.rejected.Add(1)
			s.log.Warn("device published at QoS 2, which is not offered; the connection is closed", "topic", clip(pk.TopicName))
			return pk, packets.ErrRejectPacket
		}
		// mochi passes over $SYS topics in silence and over others at QoS 0;
		// a device that uses them is broken or hostile either way.
		if !h.OnACLCheck(cl, pk.TopicName, true) {
			return pk, packets.ErrRejectPacket
		}
	case packets.Puback:
		s.acknowledged(pk.PacketID)
	case packets.Disconnect:
		s.farewell = pk.ReasonCode != packets.CodeDisconnectWillMessage.Code
	}
	return pk, nil
}

// OnPublish hands the message over. ErrRejectPacket keeps mochi from
// acknowledging it; every other error would not.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	s := sessionOf(cl)
	t, err := topic.Parse(pk.TopicName)
	if err != nil { // a wildcard filter covers names that are no valid device names
		h.b.rejected.Add(1)
		s.log.Warn("device used a malformed topic; the connection is closed", "error", err)
		s.stop(packets.ErrTopicNameInvalid)
		return pk, packets.ErrRejectPacket
	}
	s.receive(t, pk.Payload, pk.FixedHeader.Qos, pk.PacketID)
	return pk, packets.ErrRejectPacket
}

// OnSubscribed notes what was granted; the SUBACK is not out yet.
func (h *hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, codes []byte) {
	s := sessionOf(cl)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sub := range pk.Filters {
		if codes[i] <= packets.CodeGrantedQos2.Code {
			s.filters[sub.Filter] = true
			s.granted = append(s.granted, sub.Filter)
		}
	}
}

// OnPacketProcessed tells the Handler of subscriptions after their SUBACK.
func (h *hook) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, err error) {
	if pk.FixedHeader.Type != packets.Subscribe {
		return
	}
	s := sessionOf(cl)
	granted := s.granted
	s.granted = nil
	if err != nil {
		return
	}
	for _, f := range granted {
		h.b.handler.Subscribed(s.id, f)
	}
}

// OnUnsubscribed forgets filters.
func (h *hook) OnUnsubscribed(cl *mqtt.Client, pk packets.Packet) {
	s := sessionOf(cl)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range pk.Filters {
		delete(s.filters, sub.Filter)
	}
}

// clip bounds what a stranger can write into the log.
func clip(s string) string {
	if len(s) > 128 {
		return s[:128] + "…"
	}
	return s
}
