package enroll

import (
	"crypto/x509"
	"encoding/asn1"
)

// The "certs-only" message of RFC 7030 section 4.1.3 (RFC 5652 SignedData with
// no content and no signatures), the only form of PKCS #7 that EST needs.

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version      int
	Digests      []asn1.RawValue `asn1:"set"`
	Content      struct{ Type asn1.ObjectIdentifier }
	Certificates asn1.RawValue
	Signers      []asn1.RawValue `asn1:"set"`
}

// certsOnly encodes certificates as DER.
func certsOnly(certs ...*x509.Certificate) ([]byte, error) {
	var raw []byte
	for _, c := range certs {
		raw = append(raw, c.Raw...)
	}
	sd := signedData{Version: 1, Digests: []asn1.RawValue{}, Signers: []asn1.RawValue{}}
	sd.Content.Type = oidData
	// certificates [0] IMPLICIT SET OF: the tag replaces that of the set.
	sd.Certificates = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: raw}
	inner, err := asn1.Marshal(sd)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{
		Type:    oidSignedData,
		Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner},
	})
}
