package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxDepth bounds the nesting of any document this package reads.
const maxDepth = 16

// strictJSON reads one JSON document into v. It refuses what encoding/json
// would let pass: doubled keys, nulls, keys outside allowed (which also
// catches a key in another case), unknown fields, deep nesting, bytes after
// the document and invalid UTF-8. A nil allowed admits any key.
func strictJSON(b []byte, allowed map[string]bool, v any) error {
	if len(b) == 0 {
		return errors.New("empty document")
	}
	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}
	walk := json.NewDecoder(bytes.NewReader(b))
	walk.UseNumber()
	if err := walkValue(walk, allowed, 0); err != nil {
		return err
	}
	if _, err := walk.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the document")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

func walkValue(d *json.Decoder, allowed map[string]bool, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := d.Token()
	if err != nil {
		return err
	}
	switch tok {
	case nil:
		return errors.New("null value")
	case json.Delim('['):
		for d.More() {
			if err := walkValue(d, allowed, depth+1); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			tok, err := d.Token()
			if err != nil {
				return err
			}
			key, _ := tok.(string)
			if seen[key] {
				return fmt.Errorf("key %.40q twice", key)
			}
			seen[key] = true
			if allowed != nil && !allowed[key] {
				return fmt.Errorf("unexpected key %.40q", key)
			}
			if err := walkValue(d, allowed, depth+1); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	}
	return nil
}

func keySet(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// base64Bytes is a JSON string in standard base64 with padding and no other
// spelling of the same bytes.
type base64Bytes []byte

func (b *base64Bytes) UnmarshalJSON(p []byte) error {
	var s string
	if err := json.Unmarshal(p, &s); err != nil {
		return err
	}
	v, err := strictBase64.DecodeString(s)
	if err != nil {
		return err
	}
	// The decoder skips line breaks; a second spelling of the same bytes is
	// refused.
	if strictBase64.EncodeToString(v) != s {
		return errors.New("base64 with line breaks")
	}
	*b = v
	return nil
}
