package interlock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

func (f *File) reader(now func() time.Time) func(context.Context) error {
	c := *f
	return func(context.Context) error {
		file, err := os.Open(c.Path)
		if err != nil {
			return unreadable("%w", err)
		}
		defer file.Close()
		s, err := file.Stat()
		if err != nil {
			return unreadable("%w", err)
		}
		if !s.Mode().IsRegular() {
			return unreadable("it is no regular file") // a pipe would be waited for
		}
		b, err := bounded(file)
		if err != nil {
			return unreadable("%w", err)
		}
		if c.MaxAgeS > 0 {
			if err := tooOld(s.ModTime(), now(), c.MaxAgeS); err != nil {
				return err
			}
		}
		return c.judge(b)
	}
}

// bounded reads all of r, or fails where it is larger than a value may be.
func bounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxValue+1))
	if err == nil && len(b) > maxValue {
		err = fmt.Errorf("it is larger than %d bytes", maxValue)
	}
	return b, err
}

// tlsConfig trusts the CAs of a PEM file, or those of the system, and shows a
// certificate if one is named. The files are read at every check, so that they
// may change.
func tlsConfig(caFile, certFile, keyFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		b, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("ca_file %s holds no certificate", caFile)
		}
	}
	if certFile != "" || keyFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("read cert_file and key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// secret reads a file with a password or token; "" for no file.
func secret(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	b, err := os.ReadFile(name)
	return strings.TrimSpace(string(b)), err
}
