// Package protocol is the root of everything that crosses a process boundary
// between a Swell agent, a Swell hub and the people and tools around them.
//
// The parties are the agent (on a device), the hub (in the cloud or a plant's
// server room) and integrators who read the same topics. The packages below
// this one hold documents and codecs only: they decide nothing and reach
// nothing, and they are imported by both sides while importing neither.
//
// # Versions
//
// Version is the one number both sides exchange. A side that meets a higher
// version than its own reads what it knows and ignores the rest; a field is
// never reused for another meaning.
//
//	1  2026-11-22  first version: topics swell/v1, desired and reported
//	               documents, telemetry blocks, release manifest schema 1
//	1  2026-11-22  firmware: Desired.FirmwareLease and Reported.Firmware; older
//	               peers ignore both
//	1  2026-11-23  numbers for gates: Reported.Metrics, Drift of a champion and
//	               of a shadow; older peers ignore them
//	1  2026-11-23  cameras: topic kind frames, signals class and probability of
//	               verdicts, Reported.Frames; older hubs refuse frames and
//	               ignore the rest
package protocol

// Version is the protocol version this code speaks. It rises with each change
// that an older peer has to know about; see the package comment for history.
const Version = 1
