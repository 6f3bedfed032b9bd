package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

// table is an open CSV file, whatever program wrote it: its names, and the reader behind them.
type table struct {
	file  *os.File
	csv   *csv.Reader
	names []string // of the columns; empty: without a name
	first []string // its first line, where that has no names; then it is a row
	comma bool     // numbers may have a decimal comma
}

// openTable opens a file and reads its first line.
func openTable(path string) (*table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t := &table{file: f}
	if err := t.begin(); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func (t *table) begin() error {
	b := bufio.NewReaderSize(t.file, 256<<10)
	if magic, _ := b.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return fmt.Errorf("unpack with gzip: %w", err)
		}
		b = bufio.NewReaderSize(z, 256<<10)
	}
	if mark, _ := b.Peek(3); bytes.Equal(mark, []byte("\ufeff")) {
		_, _ = b.Discard(3)
	}
	head, err := b.Peek(b.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case len(bytes.TrimSpace(head)) == 0:
		return errors.New("it is empty")
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		return errors.New("it is text in UTF-16: save it as CSV in UTF-8")
	case bytes.IndexByte(head, 0) >= 0:
		return errors.New("it is no text: want a CSV file")
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	t.csv = csv.NewReader(b)
	t.csv.ReuseRecord, t.csv.LazyQuotes, t.csv.FieldsPerRecord = true, true, -1
	t.csv.Comma = separator(string(line))
	t.comma = t.csv.Comma != ','
	cells, err := t.csv.Read()
	if err != nil {
		return fmt.Errorf("read its first line: %w", err)
	}
	t.names = make([]string, len(cells))
	seen, data := map[string]int{}, true
	for i, c := range cells {
		c = strings.TrimSpace(c)
		if c != "" && !t.isValue(c) {
			data = false
		}
		seen[c]++
		if n := seen[c]; n > 1 && c != "" {
			c = fmt.Sprintf("%s (%d)", c, n)
		}
		t.names[i] = c
	}
	if data {
		t.first = append([]string(nil), cells...)
		for i := range t.names {
			t.names[i] = "column " + strconv.Itoa(i+1)
		}
	}
	return nil
}

// isValue says that a cell is a number or a time, and so no name.
func (t *table) isValue(cell string) bool {
	if !strings.ContainsAny(cell, "0123456789") {
		return false
	}
	_, ok := t.number(cell)
	return ok || len(candidates(cell)) > 0
}

// separator is the one that is found most outside quotes; where there is a semicolon or a tab, a comma may be part of
// a number or a name.
func separator(line string) rune {
	count, quoted := map[rune]int{}, false
	for _, r := range line {
		if r == '"' {
			quoted = !quoted
		} else if !quoted {
			count[r]++
		}
	}
	for _, r := range ";\t|" {
		if count[r] > 0 && (r != '|' || count[','] == 0) {
			return r
		}
	}
	return ','
}

// next reads a row.
func (t *table) next() ([]string, error) {
	if t.first != nil {
		row := t.first
		t.first = nil
		return row, nil
	}
	return t.csv.Read()
}

// number reads a number of a cell, with a decimal comma where commas do not separate cells.
func (t *table) number(cell string) (float32, bool) {
	cell = strings.TrimSpace(cell)
	v, err := strconv.ParseFloat(cell, 32)
	if err != nil && t.comma {
		if i := strings.LastIndexByte(cell, ','); i >= 0 {
			if strings.LastIndexByte(cell, '.') > i { // 1,234.5
				cell = strings.ReplaceAll(cell, ",", "")
			} else {
				cell = strings.ReplaceAll(cell[:i], ".", "") + "." + cell[i+1:]
			}
			v, err = strconv.ParseFloat(cell, 32)
		}
	}
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return float32(math.NaN()), false
	}
	return float32(v), true
}
