package segments

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/parquet-go/parquet-go"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// Names of the columns that are not signals. A signal of such a name gets an
// underscore behind it in the file; signalsKey says which is which.
const (
	rowColumn  = "row"
	timeColumn = "time"
	signalsKey = "swell.signals" // file metadata: JSON list of fileSignal, in the device's order
	bootKey    = "swell.boot"    // file metadata: the installation the rows are counted by, decimal
)

type fileSignal struct {
	Name   string `json:"name"`
	Unit   string `json:"unit,omitempty"`
	Column string `json:"column"`

	index int // of the signal's column in a block
}

// pageRows is how many rows share a page: what a reader of a few rows unpacks.
const pageRows = 8192

// encode writes blocks with the same columns as one Parquet file. The same
// blocks give the same bytes.
func encode(blocks []series.Batch) ([]byte, Segment, error) {
	signals, schema, err := schemaOf(&blocks[0])
	if err != nil {
		return nil, Segment{}, err
	}
	rows := 0
	for i := range blocks {
		rows += blocks[i].Rows()
	}
	type place struct {
		time       int64
		block, row int
	}
	places := make([]place, 0, rows)
	for i := range blocks {
		for j := range blocks[i].Rows() {
			places = append(places, place{blocks[i].Time(j), i, j})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.time, b.time) })

	meta, err := json.Marshal(signals)
	if err != nil {
		return nil, Segment{}, err
	}
	var file bytes.Buffer
	w := parquet.NewGenericWriter[any](&file, schema,
		parquet.CreatedBy("swell", "1", ""),
		parquet.Compression(&parquet.Zstd),
		parquet.KeyValueMetadata(signalsKey, string(meta)),
		parquet.KeyValueMetadata(bootKey, fmt.Sprint(blocks[0].Boot)),
	)
	columns := w.ColumnWriters()
	values := make([]parquet.Value, 0, pageRows)
	// fill writes one column, page by page.
	fill := func(name string, value func(p place) parquet.Value) error {
		leaf, ok := schema.Lookup(name)
		if !ok {
			return fmt.Errorf("no column %q", name)
		}
		for part := range slices.Chunk(places, pageRows) {
			values = values[:0]
			for _, p := range part {
				values = append(values, value(p))
			}
			if _, err := columns[leaf.ColumnIndex].WriteRowValues(values); err != nil {
				return err
			}
		}
		return nil
	}
	first := uint64(math.MaxUint64)
	errs := []error{
		fill(timeColumn, func(p place) parquet.Value { return parquet.Int64Value(p.time) }),
		fill(rowColumn, func(p place) parquet.Value {
			row := rowOf(&blocks[p.block], p.row)
			first = min(first, row)
			return parquet.Int64Value(int64(row))
		}),
	}
	for _, s := range signals {
		errs = append(errs, fill(s.Column, func(p place) parquet.Value {
			return parquet.FloatValue(blocks[p.block].Columns[s.index].Float32[p.row])
		}))
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return nil, Segment{}, fmt.Errorf("encode segment: %w", err)
	}
	return file.Bytes(), Segment{First: first, Rows: rows, From: places[0].time, To: places[rows-1].time}, nil
}

// isRowOffset reports whether column c of b says which rows the verdicts are of,
// which the file says in its row column.
func isRowOffset(b *series.Batch, c *series.Column) bool {
	return b.Stream == string(telemetry.Verdicts) && c.Name == telemetry.RowOffset
}

// rowOf returns the index of row i of b in the device's raw stream.
func rowOf(b *series.Batch, i int) uint64 {
	for j := range b.Columns {
		if c := &b.Columns[j]; isRowOffset(b, c) && c.Float32[i] >= 0 {
			return b.First + uint64(c.Float32[i])
		}
	}
	return b.First + uint64(i)
}

func schemaOf(b *series.Batch) ([]fileSignal, *parquet.Schema, error) {
	group := parquet.Group{
		timeColumn: parquet.Encoded(parquet.Timestamp(parquet.Nanosecond), &parquet.DeltaBinaryPacked),
		rowColumn:  parquet.Encoded(parquet.Int(64), &parquet.DeltaBinaryPacked),
	}
	var signals []fileSignal
	for i := range b.Columns {
		c := &b.Columns[i]
		if c.Kind != series.Float32 {
			return nil, nil, fmt.Errorf("encode segment: signal %q is not float32", c.Name)
		}
		if isRowOffset(b, c) {
			continue
		}
		name := c.Name
		for group[name] != nil {
			name += "_"
		}
		group[name] = parquet.Encoded(parquet.Leaf(parquet.FloatType), &parquet.ByteStreamSplit)
		signals = append(signals, fileSignal{c.Name, c.Unit, name, i})
	}
	return signals, parquet.NewSchema("swell", group), nil
}

// decode reads what encode wrote.
func decode(file []byte) (Columns, error) {
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)), parquet.SkipBloomFilters(true))
	if err != nil {
		return Columns{}, err
	}
	text, ok := f.Lookup(signalsKey)
	if !ok {
		return Columns{}, fmt.Errorf("no %s in the file's metadata: not a segment", signalsKey)
	}
	var signals []fileSignal
	if err := json.Unmarshal([]byte(text), &signals); err != nil {
		return Columns{}, fmt.Errorf("%s: %w", signalsKey, err)
	}
	rows := int(f.NumRows())
	out := Columns{Rows: make([]uint64, 0, rows), Times: make([]int64, 0, rows)}
	err = eachValue(f, rowColumn, func(v parquet.Value) { out.Rows = append(out.Rows, uint64(v.Int64())) })
	if err != nil {
		return Columns{}, err
	}
	if err := eachValue(f, timeColumn, func(v parquet.Value) { out.Times = append(out.Times, v.Int64()) }); err != nil {
		return Columns{}, err
	}
	for _, s := range signals {
		c := Column{Name: s.Name, Unit: s.Unit, Values: make([]float32, 0, rows)}
		if err := eachValue(f, s.Column, func(v parquet.Value) { c.Values = append(c.Values, v.Float()) }); err != nil {
			return Columns{}, err
		}
		out.Signals = append(out.Signals, c)
	}
	for _, c := range out.Signals {
		if len(c.Values) != rows || len(out.Rows) != rows || len(out.Times) != rows {
			return Columns{}, errors.New("columns differ in length")
		}
	}
	return out, nil
}

func eachValue(f *parquet.File, column string, do func(parquet.Value)) error {
	leaf, ok := f.Schema().Lookup(column)
	if !ok {
		return fmt.Errorf("no column %q", column)
	}
	values := make([]parquet.Value, 1024)
	for _, group := range f.RowGroups() {
		pages := group.ColumnChunks()[leaf.ColumnIndex].Pages()
		err := eachPage(pages, values, do)
		if err := errors.Join(err, pages.Close()); err != nil {
			return fmt.Errorf("column %q: %w", column, err)
		}
	}
	return nil
}

func eachPage(pages parquet.Pages, values []parquet.Value, do func(parquet.Value)) error {
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		reader := page.Values()
		for {
			n, err := reader.ReadValues(values)
			for _, v := range values[:n] {
				do(v)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		parquet.Release(page)
	}
}
