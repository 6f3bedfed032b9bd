// Package e2e holds tests of the whole product: real programs or whole hubs
// and agents in this process, on loopback, with everything between them that
// goes wrong in a factory.
//
// What they show are promises to the people who run it: nothing acknowledged is
// lost when a part is killed, no device is left without a model, a bad release
// stops itself with its reason in plain sight. The figures they print are
// counted at the end from what is stored, not from what was believed on the
// way. Nobody imports this package.
package e2e
