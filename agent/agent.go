// Package agent is the program on a device: it reads a source, scores every
// window with the champion model, spools and sends what it read and found, and
// brings up the releases the hub wants, without stopping.
//
// The parties are the sensor behind a source, the hub behind an Uplink and an
// HTTPS address, and the operator's configuration. The agent promises that
// only a release whose signature, digests, class and counter hold is ever
// loaded, that scoring goes on through an update, that what it reads is kept
// on disk until the hub has it or the spool is full, and that it says what it
// lost.
//
// This package is the composition root. It may be imported by agent/cmd and by
// the simulator, which runs many agents in one process: nothing here is
// global but the ONNX Runtime library.
package agent

import (
	"context"

	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// Uplink is the connection to the hub's broker. agent/link implements it over
// MQTT.
type Uplink interface {
	// Run connects, and again whenever the connection is lost, until ctx ends.
	// h hears of it.
	Run(ctx context.Context, h UplinkHandler) error
	// Publish sends with QoS 1, or with QoS 0 for a Sparkplug topic, and calls
	// done once: with nil when the broker has acknowledged, else with why not.
	// Without a connection done is called with an error at once.
	Publish(t topic.Topic, payload []byte, done func(error))
	// Connected says whether a connection stands now.
	Connected() bool
}

// UplinkHandler hears what happens on an Uplink. Its methods return quickly.
type UplinkHandler interface {
	Up()                    // connected and subscribed
	Down(err error)         // connection lost, or an attempt failed
	Desired(payload []byte) // a desired document came
}

// Agent is one device's program. Make it with New, run it once.
type Agent struct {
	config Config
}

// New checks the configuration and makes an agent that has not started.
func New(c Config) (*Agent, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Agent{config: c.withDefaults()}, nil
}

// Run starts everything, enrols if need be, and returns when ctx ends (nil) or
// the device cannot work at all (why). A hub that is away is no reason.
func (a *Agent) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Reported is what the device would report now. It may be called at any time,
// from any goroutine.
func (a *Agent) Reported() twin.Reported { return twin.Reported{} }

// Run is New and Agent.Run in one.
func Run(ctx context.Context, c Config) error {
	a, err := New(c)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}
