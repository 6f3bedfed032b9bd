// Package embedded is the series store in the hub's own data folder: typed,
// compressed blocks in Pebble.
package embedded
