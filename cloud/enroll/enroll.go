// Package enroll gives devices their identity: a single-use token, a
// certificate for it, its renewal and its end.
//
// The parties are an operator, who makes a token for one device; the device,
// which shows the token once and a key of its own, and gets a certificate that
// lives a week; the hub's certificate authority (CA), made at first start; and
// the listeners of the hub, which ask Authorize about each certificate shown to
// them. The paths are those of RFC 7030 (Enrollment over Secure Transport).
//
// It promises: a token is kept only as its SHA-256, works once and for one
// device; the identity in a certificate comes from the token or from the
// certificate being renewed, never from the request; only ECDSA P-256 keys are
// certified; a revoked certificate is refused at the next connection and can
// not be renewed, even by a renewal under way at that moment.
//
// It leaves to others: ending the sessions of a revoked device
// (broker.Broker.Kick), and what class and labels mean.
//
// cloud packages may import it.
package enroll
