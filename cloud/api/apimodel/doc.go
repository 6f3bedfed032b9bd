// Package apimodel holds the objects of the REST contract (protocol/openapi.yaml)
// as Go types, generated. The hub's api package answers with them and the client
// reads them; it imports no HTTP server, so that swellctl stays small.
package apimodel
