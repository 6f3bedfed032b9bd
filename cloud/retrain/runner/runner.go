// Package runner does heavy work in a process of its own, under limits: what
// hangs is ended, what eats memory is ended, and the hub goes on.
//
// The parties are cloud/retrain, which says what to run in which folder, and
// the operating system. A job reads its input from the folder and leaves its
// output there; nothing of the hub's credentials is in its environment. It
// promises that when Run returns no process of the job is left, that a job
// that went over a limit ends in an error that wraps ErrRefused and says which
// limit, and that the cost it returns was measured over the whole job. Only
// cloud/retrain and cloud/hub import this package.
package runner

import (
	"context"
	"errors"
)

// Limits bound one job. 0: no limit.
type Limits struct {
	WallS     float64 // seconds from start to end
	CPUS      float64 // CPU-seconds in all
	MemoryMiB int     // resident memory of all its processes together
	CPUs      float64 // that it may keep busy at once
}

// Job is a program to run.
type Job struct {
	Command []string // program and arguments
	Dir     string   // working folder
	Env     []string // beside PATH, HOME and TMPDIR; as in os/exec
	Limits  Limits
	Log     func(line string) // hears what the program prints; nil: nobody
}

// Cost is what a job took.
type Cost struct {
	CPUSeconds  float64
	WallSeconds float64
	PeakMiB     float64
}

// Runner runs jobs.
type Runner interface {
	// Run returns when the job has ended. The cost is of what was done, also
	// with an error. An error that wraps ErrRefused is the job's own fault,
	// and another try would end the same way.
	Run(ctx context.Context, j Job) (Cost, error)
}

// ErrRefused means that the job went over a limit or failed by itself.
var ErrRefused = errors.New("the job was refused")
