package embedded

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/swellfleet/swell/protocol/topic"
)

// conn is what mochi reads from. It leads a hook from mochi's client to the
// session.
type conn struct {
	net.Conn
	log     *slog.Logger
	cert    *x509.Certificate // verified; nil on a plain listener
	session *session          // nil until the device is known; set and read by the connection's goroutine
}

// session is one device on one connection.
type session struct {
	b    *Broker
	id   topic.ID
	cl   *mqtt.Client
	log  *slog.Logger
	acl  topic.Filters
	will *will         // nil without one
	slot chan struct{} // one place taken for each message in flight

	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	expiry *time.Timer // ends the session with its certificate; nil on a plain listener

	// Only the connection's goroutine touches these.
	farewell bool     // the device said DISCONNECT, so its will is void
	granted  []string // filters of the SUBSCRIBE being answered

	mu      sync.Mutex
	filters map[string]bool
	acks    []uint16         // PUBACKs to write; bounded by slot
	out     []packets.Packet // publishes to write; bounded by MaxOutbound with unacked
	unacked map[uint16]bool  // packet ids of publishes that the device did not acknowledge, those in out among them
	lastID  uint16
	writing bool // a writer runs
}

type will struct {
	topic   topic.Topic
	payload []byte
}

func newSession(b *Broker, id topic.ID, cl *mqtt.Client, c *conn) *session {
	s := &session{
		b: b, id: id, cl: cl,
		log:     c.log.With("device", id.String()),
		acl:     topic.FiltersFor(id),
		slot:    make(chan struct{}, b.cfg.MaxInFlight),
		filters: map[string]bool{},
		unacked: map[uint16]bool{},
	}
	s.ctx, s.cancel = context.WithCancel(b.ctx)
	if c.cert != nil {
		s.expiry = time.AfterFunc(time.Until(c.cert.NotAfter), func() { s.stop(errors.New("certificate expired")) })
	}
	return s
}

// stop ends the connection; its goroutine does the rest.
func (s *session) stop(why error) {
	s.cancel()
	s.cl.Stop(why)
	if s.expiry != nil {
		s.expiry.Stop()
	}
}

func covered(filters []string, name string) bool {
	for _, f := range filters {
		if topic.Match(f, name) {
			return true
		}
	}
	return false
}

// receive hands one message to the Handler, after waiting for a place. It runs
// on the connection's goroutine, so waiting here is what slows a device down.
func (s *session) receive(t topic.Topic, payload []byte, qos byte, packetID uint16) {
	b, size := s.b, int64(len(payload))
	select {
	case s.slot <- struct{}{}:
	default:
		b.pendingFull.Add(1)
		select {
		case s.slot <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
	}
	if !b.pending.TryAcquire(size) {
		b.pendingFull.Add(1)
		if b.pending.Acquire(s.ctx, size) != nil {
			<-s.slot
			return
		}
	}
	b.received.Add(1)
	b.pendingN.Add(1)
	var once sync.Once
	b.handler.Message(s.id, t, payload, func(err error) {
		once.Do(func() {
			b.pendingN.Add(-1)
			b.pending.Release(size)
			switch {
			case err != nil:
				b.failed.Add(1)
				s.log.Warn("message was not kept; the connection is closed so that the device sends it again", "topic", t.String(), "error", err)
				s.stop(err)
			case qos > 0:
				s.ack(packetID) // the writer frees the place, so a device that does not read its PUBACKs is held back too
				return
			}
			<-s.slot
		})
	})
}

// ack queues a PUBACK.
func (s *session) ack(packetID uint16) {
	s.mu.Lock()
	s.acks = append(s.acks, packetID)
	s.write()
	s.mu.Unlock()
}

// publish queues a message to the device if it listens to name.
func (s *session) publish(name string, payload []byte) {
	s.mu.Lock()
	listens := false
	for f := range s.filters {
		listens = listens || topic.Match(f, name)
	}
	if !listens {
		s.mu.Unlock()
		return
	}
	if len(s.unacked) >= s.b.cfg.MaxOutbound {
		s.mu.Unlock()
		s.b.dropped.Add(1)
		s.log.Warn("device does not acknowledge what it is sent; the connection is closed", "unacknowledged", s.b.cfg.MaxOutbound)
		s.stop(packets.ErrQuotaExceeded)
		return
	}
	for {
		s.lastID++
		if s.lastID != 0 && !s.unacked[s.lastID] {
			break
		}
	}
	s.unacked[s.lastID] = true
	s.out = append(s.out, packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1},
		TopicName:   name,
		Payload:     payload,
		PacketID:    s.lastID,
	})
	s.write()
	s.mu.Unlock()
}

// acknowledged notes the device's PUBACK.
func (s *session) acknowledged(packetID uint16) {
	s.mu.Lock()
	delete(s.unacked, packetID)
	s.mu.Unlock()
}

// write starts a writer unless one runs or the broker closes. The caller holds
// s.mu. An idle session has no writer: its stack would be the larger part of
// what a connection costs.
func (s *session) write() {
	if s.writing || s.ctx.Err() != nil {
		return
	}
	// A done may come at any time, so Add must not run against a Wait that
	// already returned.
	s.b.mu.RLock()
	defer s.b.mu.RUnlock()
	if s.b.closed {
		return
	}
	s.writing = true
	s.b.wg.Go(s.drain)
}

// drain writes what is queued until nothing is.
func (s *session) drain() {
	var buf []byte
	for {
		s.mu.Lock()
		acks, out := s.acks, s.out
		s.acks, s.out = nil, nil
		if len(acks) == 0 && len(out) == 0 || s.ctx.Err() != nil {
			s.writing = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()

		// All PUBACKs in one write. The form of a success without properties is
		// the same in MQTT 3.1.1 (section 3.4) and 5.
		buf = buf[:0]
		for _, id := range acks {
			buf = binary.BigEndian.AppendUint16(append(buf, packets.Puback<<4, 2), id)
		}
		var err error
		if len(buf) > 0 {
			s.cl.Lock() // mochi's lock on the connection's write side
			_, err = s.cl.Net.Conn.Write(buf)
			s.cl.Unlock()
			if err == nil {
				s.b.acked.Add(uint64(len(acks)))
				for range acks {
					<-s.slot
				}
			}
		}
		for _, pk := range out {
			if err == nil {
				err = s.cl.WritePacket(pk)
			}
			if err == nil {
				s.b.published.Add(1)
			}
		}
		if err != nil {
			s.stop(err)
		}
	}
}
