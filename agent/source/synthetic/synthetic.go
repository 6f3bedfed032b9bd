// Package synthetic is a source of made signals: sums of sines and noise that
// drift and break on a schedule, all from one seed.
//
// It lets the demonstration and the load tests run without any recording. Two
// sources with the same Config deliver the same values.
package synthetic

// Config describes the signals. The zero value makes 8 channels at 10 Hz.
type Config struct {
	Seed     uint64   `yaml:"seed"`
	Channels []string `yaml:"channels"` // names; empty: signal-1 … signal-8
	RateHz   float64  `yaml:"rate_hz"`  // rows per second of signal time; 0 means 10
	// Speed multiplies the pace at which rows are delivered. 0 means 1; below 0
	// means as fast as rows are taken.
	Speed float64 `yaml:"speed"`
	// Noise is the standard deviation of the noise, in parts of each signal's
	// amplitude. 0 means 0.05.
	Noise float64 `yaml:"noise"`
	// DriftPerHour moves each signal's mean, in amplitudes per hour of signal
	// time.
	DriftPerHour float64 `yaml:"drift_per_hour"`
	// Faults are spells in which some channels misbehave.
	Faults []Fault `yaml:"faults"`
	// FaultEveryS repeats the list of faults with this period, in seconds of
	// signal time; 0: once.
	FaultEveryS float64 `yaml:"fault_every_s"`
	// Rows ends the source after so many rows; 0: never.
	Rows uint64 `yaml:"rows"`
	// BatchRows is the most rows handed over at once. 0 means 256.
	BatchRows int `yaml:"batch_rows"`
}

// Fault is one spell, in seconds of signal time from the start or, with
// FaultEveryS, from the start of each period.
type Fault struct {
	AtS     float64 `yaml:"at_s"`
	ForS    float64 `yaml:"for_s"`
	Kind    string  `yaml:"kind"`    // offset | noise | stuck | nan | swing
	Size    float64 `yaml:"size"`    // in amplitudes; 0 means 3
	Channel string  `yaml:"channel"` // empty: all
}
