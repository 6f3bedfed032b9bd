// Package apigen is the generated strict server of the REST contract: it decodes
// requests, encodes answers and holds the contract itself for validation. Only
// the api package imports it.
package apigen
