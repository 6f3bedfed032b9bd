package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain makes this program the job: a shell cannot be told to hold memory.
func TestMain(m *testing.M) {
	if os.Getenv("SWELL_RUNNER_JOB") == "eat" {
		var held [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := range b {
				b[i] = 1
			}
			held = append(held, b)
			<-time.After(20 * time.Millisecond)
			_ = held
		}
	}
	os.Exit(m.Run())
}

func shell(t *testing.T, script string, l Limits) Job {
	t.Helper()
	return Job{Command: []string{"/bin/sh", "-c", script}, Dir: t.TempDir(), Limits: l}
}

func TestAJobRunsInItsFolderAndItsCostIsMeasured(t *testing.T) {
	var lines []string
	j := shell(t, "echo begin; echo done > out; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; printf end", Limits{WallS: 30, MemoryMiB: 256, CPUs: 1})
	j.Log = func(l string) { lines = append(lines, l) }
	c, err := Process{}.Run(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(j.Dir, "out")); err != nil {
		t.Error(err)
	}
	if c.CPUSeconds <= 0 || c.WallSeconds <= 0 || c.PeakMiB <= 0 {
		t.Errorf("cost %+v", c)
	}
	if strings.Join(lines, "|") != "begin|end" {
		t.Errorf("lines %q", lines)
	}
}

func TestAJobGetsNothingOfTheHubsEnvironment(t *testing.T) {
	t.Setenv("SWELL_SECRET", "s3cret")
	j := shell(t, `test -z "$SWELL_SECRET"`, Limits{})
	if _, err := (Process{}).Run(t.Context(), j); err != nil {
		t.Error(err)
	}
}

func TestJobsThatMisbehaveEndInARefusalThatSaysSo(t *testing.T) {
	for name, tc := range map[string]struct {
		job  Job
		says string
	}{
		"hangs":                {shell(t, "sleep 600", Limits{WallS: 0.3}), "still at work after its limit of 0.3 s"},
		"hangs and will not":   {shell(t, "trap '' TERM INT HUP; while :; do sleep 1; done", Limits{WallS: 0.3}), "limit of 0.3 s"},
		"burns CPU":            {shell(t, "while :; do :; done", Limits{CPUS: 0.3}), "of CPU, over its limit of 0.3 s"},
		"eats memory":          {Job{Command: []string{os.Args[0]}, Env: []string{"SWELL_RUNNER_JOB=eat"}, Limits: Limits{MemoryMiB: 64, WallS: 60}}, "64 MiB"},
		"eats it in a child":   {Job{Command: []string{"/bin/sh", "-c", os.Args[0] + " & wait"}, Env: []string{"SWELL_RUNNER_JOB=eat"}, Limits: Limits{MemoryMiB: 64, WallS: 60}}, "64 MiB"},
		"fails":                {shell(t, "echo working; echo 'no such column' >&2; exit 3", Limits{}), "no such column"},
		"is not there":         {Job{Command: []string{"/no/such/trainer"}}, "start trainer"},
		"dies by a signal":     {shell(t, "kill -SEGV $$", Limits{}), "segmentation"},
		"prints without end":   {shell(t, "yes", Limits{WallS: 0.3}), "limit of 0.3 s"},
		"one line without end": {shell(t, "tr '\\0' x < /dev/zero", Limits{WallS: 0.3}), "limit of 0.3 s"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := 0
			tc.job.Log = func(string) { lines++ }
			began := time.Now()
			_, err := Process{}.Run(t.Context(), tc.job)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want a refusal with %q", err, tc.says)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if lines > maxLogLines {
				t.Errorf("%d lines were logged", lines)
			}
		})
	}
}

func TestNothingOfAJobIsLeft(t *testing.T) {
	j := shell(t, "sleep 600 & echo $! > child; if [ -e wait ]; then wait; fi", Limits{WallS: 5})
	for _, waits := range []bool{false, true} {
		if waits {
			j.Limits.WallS = 0.5
			if err := os.WriteFile(filepath.Join(j.Dir, "wait"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Process{}.Run(t.Context(), j)
		if waits != errors.Is(err, ErrRefused) {
			t.Errorf("waits %v: %v", waits, err)
		}
		b, err := os.ReadFile(filepath.Join(j.Dir, "child"))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(5 * time.Second)
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d of the job is still there", pid)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
}

// alive says whether a process runs; one that only waits to be buried does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestACancelledJobEndsAndIsNoRefusal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	j := shell(t, "echo ready; sleep 600", Limits{})
	j.Log = func(string) { cancel() }
	if _, err := (Process{}).Run(ctx, j); !errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
}
