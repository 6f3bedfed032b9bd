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

// ScoreImages scores len(scores) images laid one after another, for evaluation on the hub. An image is an anomaly
// where its score is not at most the contract's threshold. probs and embeddings may be nil; otherwise they hold
// one value per image and class, and one per image and value of the embedding.
func (s *Session) ScoreImages(pixels []byte, scores, probs, embeddings []float32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.program == nil {
		return ErrClosed
	}
	i := s.contract.Image
	if i == nil || len(pixels) != i.Bytes()*len(scores) {
		return s.pixelError(len(pixels))
	}
	classes, length := len(i.Classes), i.Embedding
	if probs != nil && len(probs) != classes*len(scores) || embeddings != nil && len(embeddings) != length*len(scores) {
		return fmt.Errorf("score %d images: room for %d probabilities and %d values of embeddings, the model computes %d and %d of each",
			len(scores), len(probs), len(embeddings), classes, length)
	}
	if err := s.needMany(); err != nil {
		return err
	}
	for from := 0; from < len(scores); from += s.rows {
		n := min(s.rows, len(scores)-from)
		copy(s.many.pixels.GetData(), pixels[from*i.Bytes():(from+n)*i.Bytes()])
		// A short tail runs with old images behind it, whose results are not read.
		if err := s.many.binding.Run(); err != nil {
			return err
		}
		copy(scores[from:from+n], s.many.score.Data())
		if len(probs) > 0 {
			copy(probs[from*classes:(from+n)*classes], s.many.probs.Data())
		}
		if len(embeddings) > 0 {
			copy(embeddings[from*length:(from+n)*length], s.many.embedding.Data())
		}
	}
	return nil
}

func (s *Session) pixelError(got int) error {
	if i := s.contract.Image; i != nil {
		return fmt.Errorf("score: %d bytes do not make images of %d by %d pixels of three", got, i.Height, i.Width)
	}
	return fmt.Errorf("score: %d bytes of images are for a model of images, this one reads windows of %d channels", got, len(s.contract.Channels))
}
