// Command hunt plays seeds of a scenario until one breaks a safety property,
// for the tests of package mutation: it is built once for every mutation, so it
// links no more than that takes.
//
// It prints the seed and what broke, and ends with 1; with 0 when nothing did.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/swellfleet/swell/simulator/explore"
)

func main() {
	o := explore.Options{Stop: true}
	flag.IntVar(&o.Seeds, "seeds", 200, "how many at most")
	flag.Uint64Var(&o.From, "from", 1, "the first")
	flag.IntVar(&o.Workers, "workers", 2, "at a time")
	flag.IntVar(&o.Devices, "devices", 0, "at most so many; 0: as the file says")
	flag.DurationVar(&o.Shrink, "shrink", 0, "how long a failing run may be made smaller")
	file := flag.String("file", "", "the scenario; none: the built-in night")
	verbose := flag.Bool("v", false, "print every seed, and the story of those that fail")
	flag.Parse()
	text := explore.Mixed
	if *file != "" {
		b, err := os.ReadFile(*file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		text = string(b)
	}
	if *verbose {
		told := 0
		o.Stop = false
		o.Progress = func(s explore.Summary) {
			for ; told < len(s.Failures); told++ {
				f := s.Failures[told]
				fmt.Fprintf(os.Stderr, "seed %d: %v\n", f.Seed, f.Violations)
			}
			fmt.Fprintf(os.Stderr, "%d seeds, %d violations, %s, %d events, %v\n", s.Seeds, s.Violations, s.Took.Round(time.Millisecond), s.Events, s.Ends)
		}
	}
	s, err := explore.Run(context.Background(), "hunt", text, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if len(s.Failures) == 0 {
		fmt.Printf("%d seeds of %d devices found nothing\n", s.Seeds, s.Devices)
		return
	}
	for _, f := range s.Failures {
		for i, v := range f.Violations {
			if i == 0 || *verbose {
				fmt.Printf("seed %d at %s: %s\n", f.Seed, v.At.Round(time.Second), v.What)
			}
		}
		if *verbose {
			fmt.Println(f.Scenario)
			for _, line := range f.Trace {
				fmt.Println(line)
			}
		}
	}
	os.Exit(1)
}
