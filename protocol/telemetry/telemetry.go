// Package telemetry is the wire form of what devices measure and conclude.
//
// The parties are the agent, which writes; the hub, which reads; and Sparkplug
// tools (SCADA, dashboards), which read the live messages. Two kinds of message
// share one encoding, the Sparkplug B 3.0 payload, written here from the field
// tables of the specification:
//
//   - Payload and Metric: live scalars on the spBv1.0 topics, QoS 0.
//   - Block: arrays of samples or verdicts on topic kind blocks, QoS 1, which
//     the hub acknowledges only when they are durable.
//
// Promises: decoding never panics and never allocates beyond the bounds named
// here, whatever the bytes; what Append writes, Decode reads back the same,
// except for signals whose codec and scale ask for rounding. The byte layout is
// in docs/formats/block.md, with golden vectors in testdata.
//
// Anyone may import it; it imports the standard library and protowire alone.
package telemetry
