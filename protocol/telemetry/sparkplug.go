package telemetry

// DataType is a Sparkplug B data type; the numbers are the specification's
// (Sparkplug 3.0, section 6.4.16).
type DataType uint32

// The data types.
const (
	Unknown         DataType = 0
	Int8            DataType = 1
	Int16           DataType = 2
	Int32           DataType = 3
	Int64           DataType = 4
	UInt8           DataType = 5
	UInt16          DataType = 6
	UInt32          DataType = 7
	UInt64          DataType = 8
	Float           DataType = 9
	Double          DataType = 10
	Boolean         DataType = 11
	String          DataType = 12
	DateTime        DataType = 13
	Text            DataType = 14
	UUID            DataType = 15
	DataSet         DataType = 16
	Bytes           DataType = 17
	File            DataType = 18
	Template        DataType = 19
	PropertySet     DataType = 20
	PropertySetList DataType = 21
	Int8Array       DataType = 22
	Int16Array      DataType = 23
	Int32Array      DataType = 24
	Int64Array      DataType = 25
	UInt8Array      DataType = 26
	UInt16Array     DataType = 27
	UInt32Array     DataType = 28
	UInt64Array     DataType = 29
	FloatArray      DataType = 30
	DoubleArray     DataType = 31
	BooleanArray    DataType = 32
	StringArray     DataType = 33
	DateTimeArray   DataType = 34
)

// Bounds of a live payload.
const (
	MaxMetrics    = 4096
	MaxProperties = 64 // of one metric, nested sets included
)

// BdSeq is the metric that ties an NDEATH (the MQTT will) to the NBIRTH of the
// same session.
const BdSeq = "bdSeq"

// Payload is one Sparkplug B message: a birth, data, death or command.
type Payload struct {
	Timestamp uint64 // ms since 1970 UTC when sent; 0 when absent
	Metrics   []Metric
	Seq       uint64 // 0 to 255, wraps; 0 in a birth
	HasSeq    bool   // false in NDEATH and commands
	UUID      string
	Body      []byte
}

// Metric is one value of a payload.
type Metric struct {
	Name       string // may be empty in data messages, when Alias stands for it
	Alias      uint64
	HasAlias   bool
	Timestamp  uint64 // ms since 1970 UTC of the value; 0 when absent
	Type       DataType
	Historical bool // not to be shown as the current value
	Transient  bool // not to be kept in a history
	Properties []Property

	// Value has the Go type of Type: int8 … uint64, float32, float64, bool,
	// string (String, Text, UUID), uint64 ms (DateTime), []byte (Bytes, File,
	// and the encoded message of DataSet and Template), or a slice of those for
	// the array types. nil means Sparkplug's is_null.
	Value any
}

// Property is one entry of a metric's property set, in order.
type Property struct {
	Key   string
	Type  DataType
	Value any // as Metric.Value; []Property for PropertySet, [][]Property for PropertySetList; nil is null
}
