package runtime

import "fmt"

// ScoreImage runs an image model on one image of Contract().Image.Bytes() bytes: RGB, row by row. It allocates
// nothing when out's slices have room.
func (s *Session) ScoreImage(pixels []byte, out *Result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.program == nil {
		return ErrClosed
	}
	if s.contract.Image == nil || len(pixels) != s.contract.Image.Bytes() {
		return s.pixelError(len(pixels))
	}
	b := s.single
	copy(b.pixels.GetData(), pixels)
	if err := b.binding.Run(); err != nil {
		return err
	}
	out.Score = b.score.Data()[0]
	out.Anomaly = b.anomaly.GetData()[0]
	out.ChannelScore, out.Probs, out.Embedding = out.ChannelScore[:0], out.Probs[:0], out.Embedding[:0]
	if b.probs != nil {
		out.Probs = append(out.Probs, b.probs.Data()...)
	}
	if b.embedding != nil {
		out.Embedding = append(out.Embedding, b.embedding.Data()...)
	}
	return nil
}

func (s *Session) pixelError(got int) error {
	if i := s.contract.Image; i != nil {
		return fmt.Errorf("score: %d bytes do not make images of %d by %d pixels of three", got, i.Height, i.Width)
	}
	return fmt.Errorf("score: %d bytes of images are for a model of images, this one reads windows of %d channels", got, len(s.contract.Channels))
}
