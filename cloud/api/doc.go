// Package api is the hub's HTTP side for people and their programs: the REST
// contract of protocol/openapi.yaml, the stream of changes, the console and the
// health and metrics endpoints.
//
// The parties are the console, swellctl and other programs on one side, and the
// hub's services on the other, which this package knows by small interfaces of
// its own. Every path stands in one table with the lowest role that may use it;
// requests are validated against the contract before a handler sees them, and
// every refusal is an RFC 9457 problem that says what to do. Only the hub's
// composition root imports it.
package api
