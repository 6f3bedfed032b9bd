package enroll

import (
	"crypto/x509"
	"testing"
	"time"
)

// FuzzPKCS7 feeds the parser what a hub in the hands of an attacker might send.
func FuzzPKCS7(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x30, 0x80})
	f.Add([]byte("0\x0f\x06\t*\x86H\x86\xf7\r\x01\a\x02\xa0\x020\x00"))
	f.Add([]byte("0\x13\x06\t*\x86H\x86\xf7\r\x01\a\x02\xa0\x060\x04\xa0\x020\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := parsePKCS7(b)
		if (err == nil) != (len(certs) > 0) {
			t.Errorf("%d certificates, error %v", len(certs), err)
		}
	})
}

func TestRenewalIsDueInTheMiddleOfACertificatesLife(t *testing.T) {
	born := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	life := 7 * 24 * time.Hour
	now := born
	i := &Identity{config: Config{Now: func() time.Time { return now }}, leaf: &x509.Certificate{NotBefore: born, NotAfter: born.Add(life)}}
	for _, c := range []struct {
		name   string
		at     time.Duration
		draw   float64
		failed bool
		least  time.Duration
		most   time.Duration
	}{
		{"earliest", 0, 0, false, life / 2, life / 2},
		{"latest", 0, 0.999, false, life * 65 / 100, life * 66 / 100},
		{"overdue after a long outage", life * 9 / 10, 0.5, false, -life, 0},
		{"after a failure", life * 9 / 10, 0.5, true, time.Minute, 2 * time.Minute},
	} {
		now = born.Add(c.at)
		i.renewal = nil
		if c.failed {
			i.renewal = ErrRefused
		}
		if got := i.renewIn(c.draw); got < c.least || got > c.most {
			t.Errorf("%s: in %s, want %s to %s", c.name, got, c.least, c.most)
		}
	}
}
