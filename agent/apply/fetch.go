package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// fetch brings a release into its slot under construction: first the signature
// and the manifest, which are believed or refused before anything else is
// asked for, then the files of this device's variant. What an earlier attempt
// left is kept and continued.
func (a *Applier) fetch(ctx context.Context, d artifact.Digest, progress func(done, total int64)) error {
	if staged, err := disk.Exists(a.config.Disk, slot(d)); err != nil || staged {
		return err
	}
	if err := a.config.Disk.MkdirAll(part(d)); err != nil {
		return err
	}
	small := map[string][]byte{}
	for _, f := range []struct {
		name string
		max  int64
	}{{trust.SignatureFile, trust.MaxBundleBytes}, {trust.ManifestFile, artifact.MaxManifestBytes}} {
		b, err := a.download(ctx, d, f.name, f.max)
		if err != nil {
			return fmt.Errorf("download %s: %w", f.name, err)
		}
		if err := disk.WriteAtomic(a.config.Disk, path.Join(part(d), f.name), b); err != nil {
			return err
		}
		small[f.name] = b
	}
	if got := artifact.Of(small[trust.ManifestFile]); got != d {
		return refuse(twin.CodeContent, fmt.Errorf("the hub sent manifest %s for %s", got.Short(), d.Short()))
	}
	_, v, err := a.believe(d, small[trust.SignatureFile], small[trust.ManifestFile])
	if err != nil {
		return err
	}
	var total, done int64
	for _, f := range v.Files {
		total += f.Size
	}
	if free, _, err := a.config.Disk.Free(); err != nil {
		return err
	} else if free < total+total/8 {
		return retry(twin.CodeDisk, fmt.Errorf("the release needs %d MiB and the disk has %d MiB free: make room", total>>20+1, free>>20))
	}
	for _, f := range v.Files {
		before := done
		err := a.fetchFile(ctx, d, f, func(n int64) { progress(before+n, total) })
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
func (a *Applier) fetchFile(ctx context.Context, d artifact.Digest, f artifact.File, progress func(int64)) error {
	name := path.Join(part(d), f.Path)
	if err := a.config.Disk.MkdirAll(path.Dir(name)); err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		have, err := a.config.Disk.Size(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if have < f.Size {
			if err := a.continueFile(ctx, d, f, name, have, progress); err != nil {
				return err
			}
		}
		err = a.checkFile(name, f)
		if err == nil {
			return nil
		}
		if err := a.config.Disk.Remove(name); err != nil {
			return err
		}
		if attempt == 1 || have == 0 {
			return refuse(twin.CodeContent, err)
		}
	}
}

// continueFile appends to name what is missing after have bytes.
func (a *Applier) continueFile(ctx context.Context, d artifact.Digest, f artifact.File, name string, have int64, progress func(int64)) (err error) {
	body, from, err := a.get(ctx, d, f.Path, have)
	if err != nil {
		return err
	}
	defer body.Close()
	open := a.config.Disk.Append
	if from == 0 {
		open = a.config.Disk.Create
	}
	out, err := open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buffer := make([]byte, 256<<10)
	for at := from; at < f.Size; {
		n, readErr := body.Read(buffer[:min(int64(len(buffer)), f.Size-at)])
		if n > 0 {
			if err := a.spend(d, int64(n)); err != nil {
				return err
			}
			if _, err := out.Write(buffer[:n]); err != nil {
				return err
			}
			at += int64(n)
			progress(at)
		}
		switch {
		case readErr == nil:
		case errors.Is(readErr, io.EOF) && at == f.Size:
		case errors.Is(readErr, io.EOF):
			return errors.Join(retry(twin.CodeFetch, fmt.Errorf("the download ended after %d of %d bytes", at, f.Size)), out.Sync())
		default:
			return errors.Join(retry(twin.CodeFetch, readErr), out.Sync())
		}
	}
	return out.Sync()
}

// checkFile hashes what is on the disk.
func (a *Applier) checkFile(name string, f artifact.File) error {
	in, err := a.config.Disk.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	return trust.VerifyFile(in, f)
}

// download reads a small file whole.
func (a *Applier) download(ctx context.Context, d artifact.Digest, name string, max int64) ([]byte, error) {
	body, _, err := a.get(ctx, d, name, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, max+1))
	if err != nil {
		return nil, retry(twin.CodeFetch, err)
	}
	if int64(len(b)) > max {
		return nil, refuse(twin.CodeContent, fmt.Errorf("it has more than %d bytes", max))
	}
	return b, a.spend(d, int64(len(b)))
}

// spend counts bytes against the budget of a release.
func (a *Applier) spend(d artifact.Digest, n int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spent[d] += n
	if a.spent[d] > a.config.ByteBudget {
		return refuse(twin.CodeFetch, fmt.Errorf("the download passed its budget of %d MiB", a.config.ByteBudget>>20))
	}
	return nil
}

// get asks for a file from byte have on. from is where the body begins: have,
// or 0 when the server does not resume.
func (a *Applier) get(ctx context.Context, d artifact.Digest, name string, have int64) (body io.ReadCloser, from int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stall := time.AfterFunc(a.config.Stall, func() { cancel(fmt.Errorf("no byte came for %s", a.config.Stall)) })
	defer func() {
		if err != nil {
			stall.Stop()
			cancel(nil)
		}
	}()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.config.Base+"/v1/releases/"+d.Hex()+"/"+name, nil)
	if err != nil {
		return nil, 0, refuse(twin.CodeFetch, err)
	}
	if have > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := a.config.Client.Do(r)
	if err != nil {
		return nil, 0, retry(twin.CodeFetch, errors.Join(err, context.Cause(ctx)))
	}
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && have > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)):
		from = have
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusGone:
		resp.Body.Close()
		// Not final: the hub may still be publishing, or have lost its storage
		// for a while. The machine bounds the attempts.
		return nil, 0, retry(twin.CodeFetch, fmt.Errorf("the hub answered %s", resp.Status))
	default:
		resp.Body.Close()
		return nil, 0, retry(twin.CodeFetch, fmt.Errorf("the hub answered %s", resp.Status))
	}
	return &watched{ReadCloser: resp.Body, stall: stall, limit: a.config.Stall, cancel: cancel, ctx: ctx}, from, nil
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

func slot(d artifact.Digest) string { return path.Join("slots", d.Hex()) }
func part(d artifact.Digest) string { return slot(d) + ".part" }
