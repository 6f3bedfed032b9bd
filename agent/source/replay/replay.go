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
	// Path of the CSV file. Its first line names the columns; the separator is
	// a semicolon if that line has one, else a comma.
	Path string `yaml:"path"`
	// TimeColumn names the column with the time of each row: RFC 3339, or
	// "2006-01-02 15:04:05" in UTC, or seconds since the epoch. Empty: the
	// first column.
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
