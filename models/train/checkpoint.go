package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
)

// A checkpoint is: mark, steps, length of the random source, the random source, number of vectors, each
// vector's length and its values, and last the SHA-256 of all before it. Numbers are little-endian, lengths
// and steps 64 bits, values float32.
const checkpointMark = "swell training 1\n"

// Checkpoint returns everything that decides how training goes on: parameters, running statistics, the
// optimizer's memory, the number of steps and the state of random, the source that picks batches (nil when
// there is none). A run resumed from it gives the same bits as one that was never interrupted.
func (t *Trainer) Checkpoint(random *rand.PCG) ([]byte, error) {
	var source []byte
	if random != nil {
		var err error
		if source, err = random.MarshalBinary(); err != nil {
			return nil, fmt.Errorf("write checkpoint: %w", err)
		}
	}
	number := func(p []byte, n int) []byte { return binary.LittleEndian.AppendUint64(p, uint64(n)) }
	size := len(checkpointMark) + 3*8 + len(source) + sha256.Size
	for _, s := range t.slots {
		size += 8 + 4*len(s.buffers[0].Data())
	}
	p := number(append(make([]byte, 0, size), checkpointMark...), t.steps) // whole at once: it is as large as the net, three times
	p = append(number(p, len(source)), source...)
	p = number(p, len(t.slots))
	for _, s := range t.slots {
		data := s.buffers[t.steps%2].Data()
		p = number(p, len(data))
		for _, v := range data {
			p = binary.LittleEndian.AppendUint32(p, math.Float32bits(v))
		}
	}
	sum := sha256.Sum256(p)
	return append(p, sum[:]...), nil
}

// Resume takes up what Checkpoint wrote for the same task. random gets the state it had then, and must be
// nil just when it was. On an error nothing has changed.
func (t *Trainer) Resume(checkpoint []byte, random *rand.PCG) error {
	if err := t.resume(checkpoint, random); err != nil {
		return fmt.Errorf("resume training: %w", err)
	}
	return nil
}

func (t *Trainer) resume(p []byte, random *rand.PCG) error {
	if len(p) < sha256.Size || !bytes.HasPrefix(p, []byte(checkpointMark)) {
		return errors.New("this is not a checkpoint")
	}
	p, sum := p[:len(p)-sha256.Size], p[len(p)-sha256.Size:]
	if want := sha256.Sum256(p); !bytes.Equal(sum, want[:]) {
		return errors.New("the checkpoint is damaged: train from the beginning")
	}
	p = p[len(checkpointMark):]
	whole := true
	take := func(n uint64) []byte {
		if n > uint64(len(p)) {
			whole, p = false, nil
			return nil
		}
		out := p[:n]
		p = p[n:]
		return out
	}
	number := func() uint64 {
		if v := take(8); v != nil {
			return binary.LittleEndian.Uint64(v)
		}
		return 0
	}
	steps := number()
	source := take(number())
	if n := number(); n != uint64(len(t.slots)) {
		return fmt.Errorf("the checkpoint has %d vectors, this task %d: it is of another task", n, len(t.slots))
	}
	vectors := make([][]byte, len(t.slots))
	for i, s := range t.slots {
		n := number()
		if want := len(s.buffers[0].Data()); n != uint64(want) {
			return fmt.Errorf("vector %d of the checkpoint has %d values, this task's %d: it is of another task", i, n, want)
		}
		vectors[i] = take(4 * n)
	}
	if !whole || len(p) > 0 || steps > math.MaxInt32 {
		return errors.New("the checkpoint's lengths do not fit")
	}
	if (len(source) > 0) != (random != nil) {
		return errors.New("a random source is in only one of checkpoint and call")
	}
	if random != nil {
		if err := random.UnmarshalBinary(source); err != nil {
			return err
		}
	}
	t.steps = int(steps)
	for i, s := range t.slots {
		data := s.buffers[t.steps%2].Data()
		for k := range data {
			data[k] = math.Float32frombits(binary.LittleEndian.Uint32(vectors[i][4*k:]))
		}
	}
	return nil
}

// Patience stops a run early: when the loss on data that is not learned from has not fallen for a while.
type Patience struct {
	// Checks is for how many checks in a row the loss may fail to reach a new lowest. 0 stops at the first.
	Checks int
	// Gain is by which share the lowest has to fall to count as new, for example 0.001.
	Gain float64

	seen   bool
	lowest float64
	since  int
}

// Check takes the next loss. best says that it is a new lowest, whose weights are worth keeping; stop that
// patience has run out. A loss that is not a number is never the lowest.
func (p *Patience) Check(loss float64) (best, stop bool) {
	if !math.IsNaN(loss) && (!p.seen || loss < p.lowest-p.Gain*math.Abs(p.lowest)) {
		p.seen, p.lowest, p.since = true, loss, 0
		return true, false
	}
	p.since++
	return false, p.since > p.Checks
}
