// Package broker is the hub's side of MQTT: what arrives from devices goes to a
// Handler, and what the hub has to say to a device goes out through Publish.
//
// The parties are the devices, which publish under their own topics only; the
// broker between, which is either in the hub's process (broker/embedded) or any
// MQTT 3.1.1 server with shared subscriptions (broker/external); and the hub,
// which implements Handler.
//
// It promises that a QoS 1 message is acknowledged to its sender only after the
// Handler called done(nil): an acknowledged message is durable. It keeps no
// sessions and no retained messages of its own: desired documents live in the
// hub's store, which sends them again whenever a device subscribes.
//
// What it leaves to others: what messages mean, deduplication (a message whose
// acknowledgement was lost comes again), and who is allowed (Config.Authorize
// of the embedded broker, the access rules of an external one).
//
// cloud packages may import it; MQTT libraries stay below this folder.
package broker

import (
	"context"
	"errors"

	"github.com/swellfleet/swell/protocol/topic"
)

// Handler is what the hub does with the broker's news. All methods may be
// called from several goroutines at once; Connected and Disconnected of one
// device are called one after the other, in the order in which they happened.
type Handler interface {
	// Message hands over one message of device id, a will message too. payload
	// belongs to the Handler. done must be called once, from any goroutine, now
	// or later: done(nil) acknowledges the message to its sender; done(err)
	// leaves it unacknowledged and closes the connection, so that the sender
	// comes back and sends it again. For QoS 0 done only frees the place the
	// message took. Message should return soon: while it runs, nothing more is
	// read from that device.
	Message(id topic.ID, t topic.Topic, payload []byte, done func(error))
	// Connected says that id has a session. A device that takes over its own
	// older session is announced again without a Disconnected between.
	Connected(id topic.ID)
	// Disconnected says that the last session of id ended. Its will message, if
	// any, was handed over before.
	Disconnected(id topic.ID)
	// Subscribed says that id now listens to filter (its SUBACK is out): what
	// it should know is to be published again.
	Subscribed(id topic.ID, filter string)
}

// Broker carries messages between devices and a Handler.
type Broker interface {
	// Start begins to carry messages to h. ctx bounds the start alone. The
	// error names what could not be opened or reached.
	Start(ctx context.Context, h Handler) error
	// Publish sends payload at QoS 1 to the device that name belongs to. A
	// device that is not connected, or has not subscribed, is no error. retain
	// asks a broker that keeps messages to keep this one for later subscribers.
	Publish(ctx context.Context, name string, payload []byte, retain bool) error
	// Kick ends the sessions of id, for instance after its certificate was
	// revoked.
	Kick(id topic.ID)
	// Stats returns the counters since Start.
	Stats() Stats
	// Close ends all sessions, waits for every goroutine of the broker and
	// returns. done functions still held may be called after it, without effect.
	Close() error
}

// ErrClosed is the error of Publish and Start after Close.
var ErrClosed = errors.New("broker is closed")

// Stats are counters since Start, except Clients and Pending, which are now.
type Stats struct {
	Clients     int64  // devices with a session (0 for an external broker: it does not say)
	Pending     int64  // messages handed over whose done was not called yet
	Received    uint64 // messages handed to the Handler
	Acked       uint64 // QoS 1 messages acknowledged after done(nil)
	Failed      uint64 // messages that ended with done(err)
	Rejected    uint64 // connections, messages and subscriptions refused by identity, access rules or form
	Dropped     uint64 // messages given up: QoS 0 over a bound, or to a device that reads too slowly
	Published   uint64 // messages sent to devices or to the external broker
	Takeovers   uint64 // sessions ended because the same identity connected again (two of one may be a cloned disk)
	Reconnects  uint64 // connections to an external broker after the first one
	PendingFull uint64 // times reading paused because a bound on pending messages was reached
}
