// Package apiclient is the generated Go client of the REST contract, for swellctl,
// the simulator and other programs that speak to a hub. It adds nothing of its own:
// credentials are a RequestEditorFn, and objects come from apimodel.
package apiclient
