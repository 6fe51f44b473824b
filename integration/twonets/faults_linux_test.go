package twonets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// faultRow is a line of the table of faults: something bad that happens, to a
// client and a gateway that are processes of their own.
type faultRow struct {
	name  string
	world faultWorld
	// slow ones are run by `make faults` alone: they take more than some seconds, or
	// the machine for themselves.
	slow bool
	do   func(f *trial)
}

// faultWorld is what rows are run in, one after the other.
type faultWorld string

// trial is one run of a row. Its methods are for one goroutine.
type trial struct {
	*world
	t      *testing.T // hides the world's
	target *numbered
	reload bool // to be done in the middle

	opened []*through // dropped when the row is over

	gateway0, client0 counted // what the processes had counted before
	gatewayNew        bool    // the process is another one than before
	clientNew         bool

	seen seen
}

// seen is what a trial found.
type seen struct {
	application string        // what the programs at both ends saw of the streams that were there
	client      string        // the codes that it counted, besides those of success
	gateway     string        // the same
	recovery    time.Duration // from the end of the fault until everything worked; where it has none, the longest standstill
	lost        int64         // bytes that were sent and did not arrive, of streams that were to live
	note        string        // for the reader of the table
}

// expectation is what a row must see. Committed before the row is run.
type expectation struct {
	application string
	client      string        // codes, besides those of success; with a question mark: perhaps
	gateway     string        // the same
	recovery    time.Duration // at most
	lost        int64         // at most
}

// busy is how much longer things may take while other packages are tested on the
// same processors. `make faults` has them for itself and holds the times as they are.
const busy = 5

// counted is what a process says of itself.
type counted struct{ ends, opened, tunnels map[string]int }

func (c counted) codesSince(before counted) string {
	codes := map[string]bool{}
	for i, r := range []map[string]int{testkit.Rise(before.ends, c.ends), testkit.Rise(before.opened, c.opened), testkit.Rise(before.tunnels, c.tunnels)} {
		for code := range r {
			if code != "normal" && code != "ok" {
				codes[[]string{"", "", "tunnel "}[i]+code] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(codes)), ", ")
}

// count reads it.
func count(c *testkit.Caddy, side string) (counted, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := c.Metrics(ctx)
	return counted{m.Ends(side), m.Opened(side), m.Tunnels(side)}, err
}

// TestFaults runs the table: the quick rows, or all with CULVERT_FAULTS=1, which
// also has configurations reloaded in the middle of each fault. The table that
// was seen is written to the file that CULVERT_FAULTS_TABLE names.
func TestFaults(t *testing.T) {
	all := os.Getenv("CULVERT_FAULTS") != ""
	report := &faultReport{}
	for _, row := range faultRows {
		if _, ok := expectations[row.name]; !ok {
			t.Errorf("nobody has said what is expected of %q", row.name)
		}
	}
	if len(expectations) != len(faultRows) {
		t.Errorf("%d rows, %d expectations", len(faultRows), len(expectations))
	}
	for _, kind := range faultWorlds {
		rows := slices.DeleteFunc(slices.Clone(faultRows), func(r faultRow) bool { return r.world != kind.name || r.slow && !all })
		if len(rows) == 0 {
			continue
		}
		t.Run(string(kind.name), func(t *testing.T) {
			o := kind.options
			o.timeouts += faultTimeouts
			if kind.binary != nil {
				o.binary = kind.binary(t)
			}
			w := newWorld(t, o)
			if kind.prepare != nil {
				kind.prepare(w)
			}
			target := w.serveNumbered(tcpTarget)
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) {
					for _, reload := range []bool{false, true} {
						if reload && !all {
							continue
						}
						began := time.Now()
						s, err := w.try(t, target, row, reload)
						report.add(row.name, reload, s, err, time.Since(began))
						if err != nil {
							t.Fatal(err)
						}
					}
				})
			}
		})
	}
	if path := os.Getenv("CULVERT_FAULTS_TABLE"); path != "" { // also of a run that failed: it says so
		if err := os.WriteFile(path, []byte(report.markdown()), 0o644); err != nil {
			t.Error(err)
		}
	}
	t.Log("\n" + report.text())
}

// try runs a row once, and holds what it saw against what was expected, and the
// processes against what they held before.
func (w *world) try(t *testing.T, target *numbered, row faultRow, reload bool) (seen, error) {
	t.Helper()
	f := &trial{world: w, t: t, target: target, reload: reload}
	if err := f.works(patience); err != nil {
		return f.seen, fmt.Errorf("before the fault: %w", err)
	}
	gatewayHeld, clientHeld := f.atRest(w.gateway), f.atRest(w.client)
	var err, err2 error
	f.gateway0, err = count(w.gateway, "gateway")
	f.client0, err2 = count(w.client, "client")
	if err := errors.Join(err, err2); err != nil {
		return f.seen, err
	}
	func() {
		defer func() { // also when the row gives the test up
			for _, x := range f.opened {
				x.drop()
			}
		}()
		row.do(f)
	}()
	if t.Failed() {
		return f.seen, errors.New("the fault could not be made, or somebody else suffered")
	}
	want := expectations[row.name]
	err = testkit.WaitFor(patience, func() error { return f.settled(want) })
	if err != nil {
		return f.seen, err
	}
	most := want.recovery
	if os.Getenv("CULVERT_FAULTS") == "" {
		most *= busy
	}
	if f.seen.recovery > most {
		err = fmt.Errorf("recovery took %v, at most %v", f.seen.recovery, most)
	}
	if f.seen.lost > want.lost {
		err = errors.Join(err, fmt.Errorf("%d bytes were lost, at most %d", f.seen.lost, want.lost))
	}
	if f.seen.application != want.application {
		err = errors.Join(err, fmt.Errorf("the application saw %q, want %q", f.seen.application, want.application))
	}
	if err != nil {
		return f.seen, err
	}
	return f.seen, errors.Join(f.works(patience), f.nothingLeft("gateway", w.gateway, gatewayHeld, f.gatewayNew), f.nothingLeft("client", w.client, clientHeld, f.clientNew))
}

// settled compares the codes that both sides have counted.
func (f *trial) settled(want expectation) error {
	gateway, err := count(f.gateway, "gateway")
	client, err2 := count(f.client, "client")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	f.seen.gateway, f.seen.client = gateway.codesSince(f.gateway0), client.codesSince(f.client0)
	if !sameCodes(want.gateway, f.seen.gateway) || !sameCodes(want.client, f.seen.client) {
		return fmt.Errorf("codes: client %q, gateway %q; want %q, %q", f.seen.client, f.seen.gateway, want.client, want.gateway)
	}
	return nil
}

// sameCodes compares what was counted with what is wanted, where a code with a
// question mark need not be there.
func sameCodes(want, got string) bool {
	left := map[string]bool{}
	for code := range strings.SplitSeq(got, ", ") {
		left[code] = true
	}
	delete(left, "")
	for code := range strings.SplitSeq(want, ", ") {
		name, maybe := strings.CutSuffix(code, "?")
		if name != "" && !left[name] && !maybe {
			return false
		}
		delete(left, name)
	}
	return len(left) == 0
}

// works opens a stream of its own and has it carry something.
func (f *trial) works(within time.Duration) error {
	return testkit.WaitFor(within, func() error {
		x, err := f.open(5 * time.Second)
		if err != nil {
			return err
		}
		defer x.drop()
		if err := x.echo("it works"); err != nil {
			return err
		}
		return x.finish()
	})
}

// nothingLeft waits until a process holds no more than before.
func (f *trial) nothingLeft(name string, c *testkit.Caddy, before holding, another bool) error {
	if another {
		return nil // what a process held before that is no more is nobody's measure
	}
	err := testkit.WaitFor(patience, func() error {
		now, err := look(c)
		if err == nil && (now.goroutines > before.goroutines+goroutineSlack || now.descriptors > before.descriptors+descriptorSlack || now.streams > 0) {
			err = fmt.Errorf("it holds %+v, before %+v", now, before)
		}
		return err
	})
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dump, _ := c.Get(ctx, "/debug/pprof/goroutine?debug=1")
	return fmt.Errorf("the %s: %w\n%.12000s", name, err, dump)
}

// What the libraries below have a few more or less of: an HTTP connection of the
// signalling that is kept for a while has two goroutines and a descriptor, a step of
// ICE a goroutine. A tunnel that is left has a dozen, a stream that is left is counted
// besides, and rows with thousands of either would leave more.
const (
	goroutineSlack  = 4
	descriptorSlack = 2
)

// holding is what a process has besides memory.
type holding struct{ goroutines, descriptors, streams int }

func look(c *testkit.Caddy) (holding, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	profile, err := c.Profile(ctx)
	usage, err2 := c.Usage()
	m, err3 := c.Metrics(ctx)
	streams := m[`streams{side="client"}`] + m[`streams{side="gateway"}`]
	return holding{profile.Goroutines, usage.Descriptors, int(streams)}, errors.Join(err, err2, err3)
}

// atRest waits until what a process holds stays the same.
func (f *trial) atRest(c *testkit.Caddy) holding {
	f.t.Helper()
	var last holding
	testkit.Eventually(f.t, patience, func() error {
		now, err := look(c)
		if err == nil && (now != last || now.streams > 0) {
			last, err = now, fmt.Errorf("still changing: %+v", now)
		}
		return err
	})
	return last
}

// midway is called by rows in the middle of their fault.
func (f *trial) midway() {
	f.t.Helper()
	if !f.reload {
		return
	}
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	f.generation++
	changed := fmt.Sprintf("target generation%d tcp/127.0.0.1:9\n", f.generation)
	if alive(f.gateway) {
		if err := f.gateway.Reload(ctx, strings.Replace(f.gatewayConfig(), "target udp ", changed+"\t\ttarget udp ", 1)); err != nil {
			f.t.Errorf("reloading the gateway in the middle: %v", err)
		}
	}
	if alive(f.client) {
		if err := f.client.Reload(ctx, f.clientConfig()+fmt.Sprintf("# generation %d\n", f.generation)); err != nil {
			f.t.Errorf("reloading the client in the middle: %v", err)
		}
	}
}

func alive(c *testkit.Caddy) bool {
	select {
	case <-c.Done():
		return false
	default:
		return true
	}
}

// note adds to what the table tells.
func (f *trial) note(format string, args ...any) {
	if f.seen.note != "" {
		f.seen.note += "; "
	}
	f.seen.note += fmt.Sprintf(format, args...)
}

// check ends the trial when something that is not the fault's goes wrong.
func (f *trial) check(errs ...error) {
	f.t.Helper()
	if err := errors.Join(errs...); err != nil {
		f.t.Fatal(err)
	}
}
