// Package replay is a source that plays back a recording from a CSV file, at
// the pace of the recording, at a multiple of it, or as fast as it is read.
//
// It is for trying Swell on data a user already has, for demonstrations and
// for load. The recording is the user's own file, named in the configuration,
// outside the device's state. Each cell that is empty or not a number becomes
// NaN, so that a broken recording looks like a broken sensor and not like an
// end.
package replay

// Config says what to play and how. Only Path is required.
type Config struct {
	// Path of the CSV file, which may be compressed with gzip. Its first line
	// names the columns (without names they are "column 1" and so on); columns
	// with an empty name are not played. The separator is a semicolon, a tab or
	// a bar if that line has one, else a comma. Where it is no comma, numbers may
	// have a decimal comma.
	Path string `yaml:"path"`
	// TimeColumn names the column with the time of each row: a date and time in
	// one of the usual forms, in UTC where it names no zone, or a number since
	// 1970: seconds, or as its size tells milli-, micro- or nanoseconds. Where day
	// and month could be exchanged, the order in which times jump least is taken.
	// Empty: a column named like one, as time, timestamp, datetime or ts, or
	// columns date and time together; else the first that holds dates; else the
	// first of all if it holds numbers that rise. NoTime, and empty where there
	// is none of these: rows are a period of SampleRateHz apart, or a second.
	TimeColumn string `yaml:"time_column"`
	// Channels are the columns to play, in this order. Empty: every column but
	// the time and those in Exclude.
	Channels []string `yaml:"channels"`
	// Exclude are columns not to play, such as labels.
	Exclude []string `yaml:"exclude"`
	// Units gives the unit of a channel by its name.
	Units map[string]string `yaml:"units"`
	// StartRow is the first row to play, counted from 0. The loop goes back to
	// row 0. StartTime, in the file's own format, skips rows before it.
	StartRow  int    `yaml:"start_row"`
	StartTime string `yaml:"start_time"`
	// Rate multiplies the pace of the recording. 0 means 1; below 0 means as
	// fast as rows are taken.
	Rate float64 `yaml:"rate"`
	// SampleRateHz is the nominal rate of the recording in rows per second. 0:
	// taken from the median step of the first rows.
	SampleRateHz float64 `yaml:"sample_rate_hz"`
	// Loop starts again at the end; otherwise the source ends.
	Loop bool `yaml:"loop"`
	// KeepTimes delivers the times of the recording. Otherwise rows are stamped
	// with the time at which they are played.
	KeepTimes bool `yaml:"keep_times"`
	// BatchRows is the most rows handed over at once. 0 means 256.
	BatchRows int `yaml:"batch_rows"`
}
