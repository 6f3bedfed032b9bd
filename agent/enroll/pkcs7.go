package enroll

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

var oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

// parsePKCS7 reads the "certs-only" form in which EST delivers certificates
// (RFC 5652, section 5.1; RFC 7030, section 4.1.3): a SignedData without
// signers. It is a container and proves nothing.
func parsePKCS7(der []byte) ([]*x509.Certificate, error) {
	if len(der) > maxAnswer {
		return nil, fmt.Errorf("PKCS #7 of %d bytes is over %d", len(der), maxAnswer)
	}
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if rest, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, fmt.Errorf("PKCS #7: %w", err)
	} else if len(rest) > 0 {
		return nil, errors.New("PKCS #7: bytes after it")
	}
	if !outer.Type.Equal(oidSignedData) {
		return nil, fmt.Errorf("PKCS #7: content type %s is not signed data", outer.Type)
	}
	var signed asn1.RawValue
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &signed); err != nil {
		return nil, fmt.Errorf("PKCS #7: %w", err)
	}
	for rest := signed.Bytes; len(rest) > 0; {
		var field asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &field); err != nil {
			return nil, fmt.Errorf("PKCS #7: %w", err)
		}
		if field.Class == asn1.ClassContextSpecific && field.Tag == 0 {
			certs, err := x509.ParseCertificates(field.Bytes)
			if err != nil {
				return nil, fmt.Errorf("PKCS #7: %w", err)
			}
			if len(certs) > 0 {
				return certs, nil
			}
		}
	}
	return nil, errors.New("PKCS #7: no certificates in it")
}
