package embedded

import (
	"bytes"
	"encoding/binary"

	"github.com/swellfleet/swell/protocol/topic"
)

// The kinds of keys, by their first byte.
const (
	keyStream   = 's' // s site 0 node 0 stream → stream record
	keyCoverage = 'c' // c site 0 node 0 boot → which sequence numbers and rows are held
	keyBlock    = 'b' // b row → block
	keyRollup   = 'r' // r row → rollup of the same block
	keyHead     = 'h' // h row → bytes of values; there until the block is in a segment
	keyPlan     = 'p' // p stream number → the blocks of a segment being written
)

// row is what block, rollup and head keys share: big-endian, so that blocks of
// a stream lie in order of time.
type row struct {
	sid       uint32
	t0        int64
	boot, seq uint64
}

const rowLen = 1 + 4 + 8 + 8 + 8

func (r row) key(kind byte) []byte {
	k := make([]byte, 0, rowLen)
	k = append(k, kind)
	k = binary.BigEndian.AppendUint32(k, r.sid)
	k = binary.BigEndian.AppendUint64(k, uint64(r.t0)^1<<63)
	k = binary.BigEndian.AppendUint64(k, r.boot)
	return binary.BigEndian.AppendUint64(k, r.seq)
}

func parseRow(k []byte) (row, bool) {
	if len(k) != rowLen {
		return row{}, false
	}
	return row{
		sid:  binary.BigEndian.Uint32(k[1:]),
		t0:   int64(binary.BigEndian.Uint64(k[5:]) ^ 1<<63),
		boot: binary.BigEndian.Uint64(k[13:]),
		seq:  binary.BigEndian.Uint64(k[21:]),
	}, true
}

// timeKey bounds the rows of a stream from time t on.
func timeKey(kind byte, sid uint32, t int64) []byte { return row{sid: sid, t0: t}.key(kind)[:1+4+8] }

// streamEnd is just past the last row of a stream.
func streamEnd(kind byte, sid uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, sid+1)
}

func streamStart(kind byte, sid uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, sid)
}

func streamKey(id topic.ID, stream string) []byte {
	return append(deviceKey(keyStream, id), stream...)
}

func coverageKey(id topic.ID, boot uint64) []byte {
	return binary.BigEndian.AppendUint64(deviceKey(keyCoverage, id), boot)
}

func planKey(sid uint32) []byte { return streamStart(keyPlan, sid) }

func deviceKey(kind byte, id topic.ID) []byte {
	k := append([]byte{kind}, id.Site...)
	k = append(append(k, 0), id.Node...)
	return append(k, 0)
}

// parseDevice cuts a stream or coverage key into the device and the rest.
func parseDevice(k []byte) (id topic.ID, rest []byte, ok bool) {
	site, k, ok1 := bytes.Cut(k[1:], []byte{0})
	node, rest, ok2 := bytes.Cut(k, []byte{0})
	return topic.ID{Site: string(site), Node: string(node)}, rest, ok1 && ok2
}
