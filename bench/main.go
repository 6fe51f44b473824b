//go:build linux

// Command bench compares Culvert with the reference system's wheel, which runs
// unchanged, and with a plain TCP relay over two hops.
//
// Everything happens inside one network namespace that the program makes. A
// round starts every peer afresh, takes one measurement after another, each of
// all peers in turn, and ends them; memory is measured on peers that did nothing
// else. Load generator and target are one process, each end of a tunnel is
// another. Payload is random and checked. A round in which a peer fails, or
// falls below half of its own best, is void and repeated.
//
//	go run ./bench                  five rounds, table on standard output
//	go run ./bench -quick           one short round: does everything run?
//	go run ./bench -json F -markdown F
//
// It needs root, the ip program and the wheel (make setup).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options is the command line.
type options struct {
	Rounds   int           // valid rounds wanted
	Peers    []string      // in the order of the table
	Only     []string      // measurements by name; empty: all
	Window   time.Duration // of one measurement
	Idle     int           // idle connections
	JSON     string        // file for the raw samples
	Markdown string        // file for the table
	Keep     bool          // leave the peers' logs
	Check    bool          // a missed bar is a failure
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "load":
			exit(serveLoad(os.Stdin, os.Stdout))
		case "splice":
			exit(serveSplice(os.Args[2:]))
		}
	}
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		err = run(ctx, o)
		stop()
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.Rounds, "rounds", 5, "valid rounds")
	flags.DurationVar(&o.Window, "window", 3*time.Second, "length of one measurement")
	flags.IntVar(&o.Idle, "idle", 4000, "idle connections")
	flags.StringVar(&o.JSON, "json", "", "write raw samples, machine, versions and configuration to this `file`")
	flags.StringVar(&o.Markdown, "markdown", "", "write the table to this `file` too")
	flags.BoolVar(&o.Keep, "keep", false, "keep the peers' logs and say where")
	flags.BoolVar(&o.Check, "check", false, "end with status 1 when a bar is missed")
	peers := flags.String("peers", "wheel,culvert,splice", "comma-separated `list` of wheel, culvert, splice")
	only := flags.String("only", "", "comma-separated `list` of measurements (all); see the table's first column")
	quick := flags.Bool("quick", false, "one round, short windows, 500 idle connections")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.Peers, o.Only = split(*peers), split(*only)
	if *quick {
		o.Rounds, o.Window, o.Idle = 1, 500*time.Millisecond, 500
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.Rounds < 1 || o.Window < 100*time.Millisecond || o.Idle < 100 || o.Idle > 8000:
		return o, errors.New("rounds from 1, window from 100ms, idle from 100 to 8000 (descriptors)")
	case len(o.Peers) == 0:
		return o, errors.New("no peers")
	}
	for _, name := range o.Peers {
		if _, ok := openers[name]; !ok {
			return o, fmt.Errorf("unknown peer %q", name)
		}
	}
	return o, checkNames(o.Only)
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// run measures until there are enough valid rounds and reports. What was
// measured before a failure or Ctrl-C is reported too.
func run(ctx context.Context, o options) error {
	result, err := measure(ctx, o)
	if result == nil {
		return err
	}
	return errors.Join(err, report(o, result))
}

func report(o options, result *result) error {
	table := result.markdown()
	fmt.Print(table)
	if o.Markdown != "" {
		if err := os.WriteFile(o.Markdown, []byte(table), 0o644); err != nil {
			return err
		}
	}
	if o.JSON != "" {
		if err := result.writeJSON(o.JSON); err != nil {
			return err
		}
	}
	if missed := result.missed(); o.Check && len(missed) > 0 {
		return fmt.Errorf("bars missed: %s", strings.Join(missed, ", "))
	}
	return nil
}
