package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process runs a job as a process group of this machine. Where the hub may make
// cgroups (version 2, with the memory and cpu controllers handed to it, as
// systemd does with Delegate=yes), the kernel holds the job to its memory and
// CPUs. Elsewhere the size and CPU time of the group are looked at ten times a
// second, and CPUs only sets how many threads Go programs start.
type Process struct{}

const (
	lookEvery   = 100 * time.Millisecond
	maxOutput   = 64 << 10 // bytes of output that are kept for the error
	maxLogLines = 500
	pipeWait    = 2 * time.Second // for output after the end: a child that left the group may hold the pipe
)

// Run implements Runner.
func (Process) Run(ctx context.Context, j Job) (Cost, error) {
	if len(j.Command) == 0 {
		return Cost{}, errors.New("run a job: it has no command")
	}
	if j.Limits.WallS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(j.Limits.WallS*float64(time.Second)), refused("it was still at work after its limit of %g s", j.Limits.WallS))
		defer cancel()
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := &output{log: j.Log}
	group := newCgroup(j.Limits)
	cmd := newCommand(j, out, group)
	began := time.Now()
	err := cmd.Start()
	if err != nil && group != nil { // a kernel or sandbox that cannot start a process in a cgroup
		group.remove()
		group, cmd = nil, newCommand(j, out, nil)
		err = cmd.Start()
	}
	if err != nil {
		return Cost{}, fmt.Errorf("%w: start %s: %w", ErrRefused, filepath.Base(j.Command[0]), err)
	}
	if group != nil {
		defer group.remove()
	}
	var peak, cpu float64
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
				return
			case <-tick.C:
			}
			mib, s := usage(cmd.Process.Pid)
			peak, cpu = max(peak, mib), max(cpu, s)
			if l := j.Limits.MemoryMiB; l > 0 && mib > float64(l) {
				end(refused("it held %.0f MiB of memory, over its limit of %d MiB", mib, l))
			}
			if l := j.Limits.CPUS; l > 0 && s > l {
				end(refused("it had used %.1f s of CPU, over its limit of %g s", s, l))
			}
		}
	})
	err = cmd.Wait()
	close(done)
	watching.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // children that outlived it
	out.end()
	c := Cost{WallSeconds: time.Since(began).Seconds(), PeakMiB: peak}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.CPUSeconds = max(cpu, float64(u.Utime.Nano()+u.Stime.Nano())/1e9)
		c.PeakMiB = max(c.PeakMiB, float64(u.Maxrss)/1024) // of the largest of its processes
	}
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return c, cause
	case group != nil && group.killed():
		return c, refused("the kernel ended it at its limit of %d MiB of memory", j.Limits.MemoryMiB)
	case j.Limits.MemoryMiB > 0 && c.PeakMiB > float64(j.Limits.MemoryMiB): // too short to have been seen
		return c, refused("it held %.0f MiB of memory, over its limit of %d MiB", c.PeakMiB, j.Limits.MemoryMiB)
	case errors.Is(err, exec.ErrWaitDelay):
		return c, nil // the program itself ended well
	case err != nil:
		return c, refused("%s ended with %v%s", filepath.Base(j.Command[0]), err, out.tail())
	}
	return c, nil
}

// newCommand prepares a job's process. It leads a group of its own, and ends
// with the thread that starts it, which Run holds on to: a hub that dies leaves
// no job behind.
func newCommand(j Job, out io.Writer, group *cgroup) *exec.Cmd {
	cmd := exec.Command(j.Command[0], j.Command[1:]...)
	cmd.Dir = j.Dir
	cmd.Env = append(environment(j.Limits), j.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = pipeWait
	cmd.Stdout, cmd.Stderr = out, out
	if group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.dir.Fd())
	}
	return cmd
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

// environment gives a job what programs need to run, and nothing that the hub
// was told.
func environment(l Limits) []string {
	var out []string
	for _, key := range []string{"PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "SWELL_ONNXRUNTIME", "CUDA_VISIBLE_DEVICES"} {
		if v, ok := os.LookupEnv(key); ok {
			out = append(out, key+"="+v)
		}
	}
	if l.CPUs > 0 {
		n := strconv.Itoa(max(1, int(l.CPUs+0.999)))
		out = append(out, "GOMAXPROCS="+n, "OMP_NUM_THREADS="+n)
	}
	return out
}

// usage sums resident memory and CPU time over the processes of a group, from
// /proc (proc(5)).
func usage(pgid int) (mib, cpu float64) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// The name may hold anything; what follows its closing bracket counts:
		// state, parent, group at 2, CPU ticks at 11 to 14, pages at 21.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) < 22 || f[2] != strconv.Itoa(pgid) {
			continue
		}
		number := func(i int) float64 { v, _ := strconv.ParseFloat(f[i], 64); return v }
		mib += number(21) * float64(os.Getpagesize()) / (1 << 20)
		cpu += (number(11) + number(12) + number(13) + number(14)) / ticks
	}
	return mib, cpu
}

// ticks are the units of CPU time in /proc a second: the same on every Linux
// that Go runs on.
const ticks = 100

// output keeps the end of what a job prints and hands its lines on.
type output struct {
	log func(string)

	mu    sync.Mutex
	line  []byte // guarded by mu, like the rest
	kept  []byte
	lines int
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, b...)
	if len(o.kept) > maxOutput {
		o.kept = o.kept[len(o.kept)-maxOutput:]
	}
	if o.log == nil {
		return len(b), nil
	}
	o.line = append(o.line, b...)
	for {
		i := bytes.IndexByte(o.line, '\n')
		if i < 0 {
			break
		}
		o.say(o.line[:i])
		o.line = o.line[i+1:]
	}
	if len(o.line) > maxOutput {
		o.say(o.line)
		o.line = nil
	}
	return len(b), nil
}

func (o *output) say(line []byte) {
	if o.lines++; o.lines <= maxLogLines && len(bytes.TrimSpace(line)) > 0 {
		o.log(strings.ToValidUTF8(string(line), "?"))
	}
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.log != nil && len(o.line) > 0 {
		o.say(o.line)
		o.line = nil
	}
}

// tail is the last line of output, for an error.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := ""
	for sc := bufio.NewScanner(bytes.NewReader(o.kept)); sc.Scan(); {
		if s := strings.TrimSpace(sc.Text()); s != "" {
			last = s
		}
	}
	if last == "" {
		return ""
	}
	return ": " + strings.ToValidUTF8(last[:min(len(last), 300)], "?")
}

// cgroup is a group of this process's own cgroup, version 2.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes a group with the limits, or returns nil where that cannot be
// done.
func newCgroup(l Limits) *cgroup {
	if l.MemoryMiB == 0 && l.CPUs == 0 {
		return nil
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	_, path, ok := strings.Cut(string(own), "0::") // one line on a machine of version 2
	if !ok {
		return nil
	}
	parent := filepath.Join("/sys/fs/cgroup", strings.TrimSpace(path))
	control, err := os.ReadFile(filepath.Join(parent, "cgroup.subtree_control"))
	if err != nil || !strings.Contains(string(control), "memory") || !strings.Contains(string(control), "cpu") {
		return nil
	}
	g := &cgroup{}
	if g.path, err = os.MkdirTemp(parent, "swell-job-"); err != nil {
		return nil
	}
	set := func(file, value string) {
		if err == nil {
			err = os.WriteFile(filepath.Join(g.path, file), []byte(value), 0)
		}
	}
	if l.MemoryMiB > 0 {
		set("memory.max", strconv.Itoa(l.MemoryMiB<<20))
		set("memory.swap.max", "0")
		set("memory.oom.group", "1")
	}
	if l.CPUs > 0 {
		set("cpu.max", fmt.Sprintf("%d 100000", int(l.CPUs*100000)))
	}
	if err == nil {
		g.dir, err = os.Open(g.path)
	}
	if err != nil {
		_ = os.Remove(g.path)
		return nil
	}
	return g
}

// killed says whether the kernel ended the group for its memory.
func (g *cgroup) killed() bool {
	b, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return f[1] != "0"
		}
	}
	return false
}

func (g *cgroup) remove() {
	_ = os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0)
	_ = g.dir.Close()
	for range 20 { // the kernel lets go of ended processes a moment later
		if os.Remove(g.path) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
