// Package s3 keeps objects on any S3 server: AWS, MinIO, Ceph, or the one the
// hub runs itself (objects/embedded).
//
// It promises what objects.Store promises as far as the server does: an S3
// server answers a put when the object is durable. Conditional put (PutIfAbsent)
// needs a server that knows If-None-Match on PUT: AWS since 2024, MinIO and
// versitygw do.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/swellfleet/swell/cloud/objects"
)

// Config says where the objects are.
type Config struct {
	Endpoint  string // host:port
	Insecure  bool   // plain HTTP: for a loopback address
	Bucket    string // made at Open if it is missing
	Region    string // default us-east-1
	AccessKey string
	SecretKey string
	Prefix    string            // of every key, ending in '/'; empty = none
	Transport http.RoundTripper // nil = minio-go's own
}

// Validate names the first setting that is missing.
func (c Config) Validate() error {
	for _, f := range []struct{ name, value string }{{"endpoint", c.Endpoint}, {"bucket", c.Bucket}, {"access key", c.AccessKey}, {"secret key", c.SecretKey}} {
		if f.value == "" {
			return fmt.Errorf("objects: the S3 %s is not set", f.name)
		}
	}
	if c.Prefix != "" && (c.Prefix[len(c.Prefix)-1] != '/' || objects.ValidKey(c.Prefix[:len(c.Prefix)-1]) != nil) {
		return fmt.Errorf("objects: S3 prefix %q: want key parts that end in '/'", c.Prefix)
	}
	return nil
}

// Store is a bucket. It implements objects.Store.
type Store struct {
	cfg    Config
	client *minio.Client
}

// Open checks that the bucket can be used, and makes it if it is missing.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	client, err := minio.New(cfg.Endpoint, &minio.Options{
		Creds:        credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""),
		Secure:       !cfg.Insecure,
		Region:       cfg.Region,
		BucketLookup: minio.BucketLookupAuto,
		Transport:    cfg.Transport,
	})
	if err != nil {
		return nil, fmt.Errorf("objects at %s: %w", cfg.Endpoint, err)
	}
	s := &Store{cfg: cfg, client: client}
	ok, err := client.BucketExists(ctx, cfg.Bucket)
	if err == nil && !ok {
		err = client.MakeBucket(ctx, cfg.Bucket, minio.MakeBucketOptions{Region: cfg.Region})
		if minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou" { // another hub was quicker
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use bucket %s at %s: %w", cfg.Bucket, cfg.Endpoint, err)
	}
	return s, nil
}

// Put writes an object; see objects.Store.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	return s.put(ctx, key, r, size, minio.PutObjectOptions{})
}

// PutIfAbsent writes an object unless one is there; see objects.Store.
func (s *Store) PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error {
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	return s.put(ctx, key, r, size, o)
}

func (s *Store) put(ctx context.Context, key string, r io.Reader, size int64, o minio.PutObjectOptions) error {
	if err := objects.ValidKey(key); err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("put object %s: size %d is negative", key, size)
	}
	// One part at a time bounds memory to a part.
	o.ContentType, o.NumThreads, o.PartSize = "application/octet-stream", 1, 16<<20
	// Over plain HTTP minio-go streams the body in signed chunks, and those of an
	// empty object stay unread on the connection, where they spoil the next request
	// (seen with minio-go 7.4.1 and versitygw 1.8.0). Nothing needs no digest.
	o.DisableContentSha256 = size == 0
	// The limit turns a reader that is too long into an error as well.
	lr := &exact{r: r, left: size}
	info, err := s.client.PutObject(ctx, s.cfg.Bucket, s.cfg.Prefix+key, lr, size, o)
	if err == nil && info.Size != size {
		err = fmt.Errorf("stored %d bytes, want %d", info.Size, size)
	}
	if err != nil {
		return fmt.Errorf("put object %s: %w", key, s.known(err))
	}
	return nil
}

// exact reads exactly what it promised, or fails.
type exact struct {
	r    io.Reader
	left int64
}

func (e *exact) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// known turns an answer of the server into an error of package objects.
func (s *Store) known(err error) error {
	switch e := minio.ToErrorResponse(err); {
	case e.Code == "NoSuchKey", e.StatusCode == http.StatusNotFound && e.Code != "NoSuchBucket":
		return objects.ErrNotFound
	case e.Code == "PreconditionFailed", e.StatusCode == http.StatusPreconditionFailed, e.Code == "ConditionalRequestConflict":
		return objects.ErrExists
	}
	return err
}

// Get opens a range of an object; see objects.Store.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, objects.Info, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, info, err
	}
	if offset < 0 || offset > info.Size {
		return nil, objects.Info{}, fmt.Errorf("get object %s: offset %d is outside its %d bytes", key, offset, info.Size)
	}
	if length < 0 || length > info.Size-offset {
		length = info.Size - offset
	}
	if length == 0 { // HTTP has no empty range
		return http.NoBody, info, nil
	}
	var o minio.GetObjectOptions
	if length < info.Size {
		if err := o.SetRange(offset, offset+length-1); err != nil {
			return nil, objects.Info{}, fmt.Errorf("get object %s: %w", key, err)
		}
	}
	// The size told must be of the object that is read.
	if err := o.SetMatchETag(info.ETag); err != nil {
		return nil, objects.Info{}, fmt.Errorf("get object %s: %w", key, err)
	}
	core := minio.Core{Client: s.client}
	r, _, _, err := core.GetObject(ctx, s.cfg.Bucket, s.cfg.Prefix+key, o)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed {
			err = errors.New("it was replaced while it was opened")
		}
		return nil, objects.Info{}, fmt.Errorf("get object %s: %w", key, s.known(err))
	}
	return r, info, nil
}

// Stat describes an object; see objects.Store.
func (s *Store) Stat(ctx context.Context, key string) (objects.Info, error) {
	if err := objects.ValidKey(key); err != nil {
		return objects.Info{}, err
	}
	o, err := s.client.StatObject(ctx, s.cfg.Bucket, s.cfg.Prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return objects.Info{}, fmt.Errorf("stat object %s: %w", key, s.known(err))
	}
	return s.describe(o), nil
}

func (s *Store) describe(o minio.ObjectInfo) objects.Info {
	return objects.Info{Key: o.Key[len(s.cfg.Prefix):], Size: o.Size, ETag: o.ETag, Modified: o.LastModified.UTC()}
}

// List yields objects by key; see objects.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objects.Info, error] {
	return func(yield func(objects.Info, error) bool) {
		for o := range s.client.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: s.cfg.Prefix + prefix, Recursive: true}) {
			if o.Err != nil {
				yield(objects.Info{}, fmt.Errorf("list objects %s: %w", prefix, o.Err))
				return
			}
			if o.Key == "" || o.Key[len(o.Key)-1] == '/' {
				continue // a folder marker that another program made
			}
			if !yield(s.describe(o), nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // minio-go ends in silence then
			yield(objects.Info{}, err)
		}
	}
}

// Delete removes an object; see objects.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objects.ValidKey(key); err != nil {
		return err
	}
	if err := s.client.RemoveObject(ctx, s.cfg.Bucket, s.cfg.Prefix+key, minio.RemoveObjectOptions{}); err != nil && !errors.Is(s.known(err), objects.ErrNotFound) {
		return fmt.Errorf("delete object %s: %w", key, err)
	}
	return nil
}
