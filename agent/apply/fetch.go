package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// Fetch brings a release into its slot under construction: first the signature
// and the manifest, which are believed or refused before anything else is
// asked for, then the files of this device's variant. What an earlier attempt
// left is kept and continued.
func (s *Stager) Fetch(ctx context.Context, d artifact.Digest, progress func(done, total int64)) error {
	if staged, err := disk.Exists(s.config.Disk, s.slot(d)); err != nil || staged {
		return err
	}
	if err := s.config.Disk.MkdirAll(s.part(d)); err != nil {
		return err
	}
	small := map[string][]byte{}
	for _, f := range []struct {
		name string
		max  int64
	}{{trust.SignatureFile, trust.MaxBundleBytes}, {trust.ManifestFile, artifact.MaxManifestBytes}} {
		b, err := s.download(ctx, d, f.name, f.max)
		if err != nil {
			return fmt.Errorf("download %s: %w", f.name, err)
		}
		if err := disk.WriteAtomic(s.config.Disk, path.Join(s.part(d), f.name), b); err != nil {
			return err
		}
		small[f.name] = b
	}
	if got := artifact.Of(small[trust.ManifestFile]); got != d {
		return Refuse(twin.CodeContent, fmt.Errorf("the hub sent manifest %s for %s", got.Short(), d.Short()))
	}
	_, v, err := s.believe(d, small[trust.SignatureFile], small[trust.ManifestFile])
	if err != nil {
		return err
	}
	var total, done int64
	for _, f := range v.Files {
		total += f.Size
	}
	if free, _, err := s.config.Disk.Free(); err != nil {
		return err
	} else if free < total+total/8 {
		return Retry(twin.CodeDisk, fmt.Errorf("the release needs %d MiB and the disk has %d MiB free: make room", total>>20+1, free>>20))
	}
	for _, f := range v.Files {
		before := done
		err := s.fetchFile(ctx, d, f, func(n int64) { progress(before+n, total) })
		if err != nil {
			return fmt.Errorf("download %s: %w", f.Path, err)
		}
		done += f.Size
		progress(done, total)
	}
	return nil
}

// fetchFile completes one file. A file whose digest does not hold at its end
// is fetched once more from the start, since its beginning may be from an
// attempt that went wrong; if it differs again, it is what the hub has.
func (s *Stager) fetchFile(ctx context.Context, d artifact.Digest, f artifact.File, progress func(int64)) error {
	name := path.Join(s.part(d), f.Path)
	if err := s.config.Disk.MkdirAll(path.Dir(name)); err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		have, err := s.config.Disk.Size(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if have < f.Size {
			if err := s.continueFile(ctx, d, f, name, have, progress); err != nil {
				return err
			}
		}
		err = s.checkFile(name, f)
		if err == nil {
			return nil
		}
		if err := s.config.Disk.Remove(name); err != nil {
			return err
		}
		if attempt == 1 || have == 0 {
			return Refuse(twin.CodeContent, err)
		}
	}
}

// continueFile appends to name what is missing after have bytes.
func (s *Stager) continueFile(ctx context.Context, d artifact.Digest, f artifact.File, name string, have int64, progress func(int64)) (err error) {
	if err := s.reserve(d, f.Size-have); err != nil {
		return err
	}
	body, from, err := s.get(ctx, d, f.Path, have)
	if err != nil {
		return err
	}
	defer body.Close()
	open := s.config.Disk.Append
	if from == 0 {
		open = s.config.Disk.Create
	}
	out, err := open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buffer := make([]byte, 256<<10)
	for at, synced := from, from; at < f.Size; {
		n, readErr := body.Read(buffer[:min(int64(len(buffer)), f.Size-at)])
		if n > 0 {
			if err := s.spend(d, int64(n)); err != nil {
				return err
			}
			if _, err := out.Write(buffer[:n]); err != nil {
				return err
			}
			at += int64(n)
			progress(at)
			if at-synced >= syncEvery && at < f.Size { // what a power cut need not cost again
				if err := out.Sync(); err != nil {
					return errors.Join(err, s.config.Disk.Remove(name))
				}
				synced = at
			}
		}
		switch {
		case readErr == nil:
		case errors.Is(readErr, io.EOF) && at == f.Size:
		case errors.Is(readErr, io.EOF):
			return errors.Join(Retry(twin.CodeFetch, fmt.Errorf("the download ended after %d of %d bytes", at, f.Size)), out.Sync())
		default:
			return errors.Join(Retry(twin.CodeFetch, readErr), out.Sync())
		}
	}
	if err := out.Sync(); err != nil {
		// What a failed sync leaves may read well and yet never reach the disk.
		return errors.Join(err, s.config.Disk.Remove(name))
	}
	return nil
}

// syncEvery is how many bytes of a download a power cut may cost.
const syncEvery = 8 << 20

// checkFile hashes what is on the disk.
func (s *Stager) checkFile(name string, f artifact.File) error {
	in, err := s.config.Disk.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	return trust.VerifyFile(in, f)
}

// download reads a small file whole.
func (s *Stager) download(ctx context.Context, d artifact.Digest, name string, max int64) ([]byte, error) {
	body, _, err := s.get(ctx, d, name, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, max+1))
	if err != nil {
		return nil, Retry(twin.CodeFetch, err)
	}
	if int64(len(b)) > max {
		return nil, Refuse(twin.CodeContent, fmt.Errorf("it has more than %d bytes", max))
	}
	return b, s.spend(d, int64(len(b)))
}

// spend counts bytes against the budget of a release.
func (s *Stager) spend(d artifact.Digest, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent[d] += n
	if s.spent[d] > s.config.ByteBudget {
		return s.overspent(d)
	}
	return nil
}

func (s *Stager) overspent(d artifact.Digest) error {
	return Refuse(twin.CodeFetch, fmt.Errorf("the download of this offer passed its budget of %d bytes, %d came: raise hub.byte_budget_mib, or mend the connection that breaks it off", s.config.ByteBudget, s.spent[d]))
}

// reserve makes durable what a release has downloaded and is about to, so that
// an agent that is restarted, again and again, goes on counting: bytes that a
// power cut kept from coming count, too.
func (s *Stager) reserve(d artifact.Digest, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.counted[d] {
		b, err := disk.ReadFile(s.config.Disk, s.count(d), 32)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if before, err := strconv.ParseInt(string(b), 10, 64); err == nil && before > 0 { // one that has rotted counts from 0
			s.spent[d] += before
		}
		s.counted[d] = true
	}
	if s.spent[d]+n > s.config.ByteBudget {
		return s.overspent(d)
	}
	return disk.WriteAtomic(s.config.Disk, s.count(d), strconv.AppendInt(nil, s.spent[d]+n, 10))
}

// get asks for a file from byte have on. from is where the body begins: have,
// or 0 when the server does not resume.
func (s *Stager) get(ctx context.Context, d artifact.Digest, name string, have int64) (body io.ReadCloser, from int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stall := time.AfterFunc(s.config.Stall, func() { cancel(fmt.Errorf("no byte came for %s", s.config.Stall)) })
	defer func() {
		if err != nil {
			stall.Stop()
			cancel(nil)
		}
	}()
	// A release is named by the digest of its manifest and its files by theirs,
	// so a range cannot be of another version: no If-Range is needed, and bytes
	// that do not fit together are found at the end of the file.
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.config.Base+"/v1/releases/"+d.Hex()+"/"+name, nil)
	if err != nil {
		return nil, 0, Refuse(twin.CodeFetch, err)
	}
	if have > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := s.config.Client.Do(r)
	if err != nil {
		return nil, 0, Retry(twin.CodeFetch, errors.Join(err, context.Cause(ctx)))
	}
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && have > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)):
		from = have
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusGone:
		// Not final: the hub may still be publishing, or have lost its storage
		// for a while. The machine bounds the attempts.
		return nil, 0, Retry(twin.CodeFetch, answered(resp))
	default:
		return nil, 0, Retry(twin.CodeFetch, answered(resp))
	}
	return &watched{ReadCloser: resp.Body, stall: stall, limit: s.config.Stall, cancel: cancel, ctx: ctx}, from, nil
}

// maxAnswer is how much of the hub's own words an error repeats.
const maxAnswer = 200

// answered is what the hub said instead of a file. It closes the body.
func answered(resp *http.Response) error {
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // half a sentence is better than none
	if text := strings.TrimSpace(string(b)); text != "" {
		return fmt.Errorf("the hub answered %s: %q", resp.Status, text)
	}
	return fmt.Errorf("the hub answered %s", resp.Status)
}

// watched is a body whose stall limit starts anew with every byte.
type watched struct {
	io.ReadCloser
	stall  *time.Timer
	limit  time.Duration
	cancel context.CancelCauseFunc
	ctx    context.Context // of the request: only asked why it ended
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.stall.Reset(w.limit)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(w.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (w *watched) Close() error {
	w.stall.Stop()
	w.cancel(nil)
	return w.ReadCloser.Close()
}
