//go:build linux

package main

import (
	"strings"
	"testing"
	"time"
)

// rounds makes a result with one round for each pair of values of one metric.
func rounds(metric string, values ...[2]float64) *result {
	r := &result{Options: options{Peers: []string{"wheel", "culvert"}}}
	for i, v := range values {
		r.Rounds = append(r.Rounds, &round{Number: i + 1, Samples: map[string]sample{
			"wheel": {metric: v[0]}, "culvert": {metric: v[1]},
		}})
	}
	return r
}

func TestJudgeVoidsARoundBelowHalfOfTheBest(t *testing.T) {
	r := rounds("bulk up", [2]float64{10, 20}, [2]float64{4.9, 20}, [2]float64{5, 20}, [2]float64{10, 41})
	judged := r.judge()
	var void []int
	for _, round := range r.Rounds {
		if round.Void != "" {
			void = append(void, round.Number)
		}
	}
	if len(judged) != len(void) || len(r.judge()) != 0 {
		t.Errorf("%d rounds judged, %d void; or again", len(judged), len(void))
	}
	// Round 2 by the wheel's best; rounds 1 and 3 by ours, which came later.
	if len(void) != 3 || void[0] != 1 || void[1] != 2 || void[2] != 3 {
		t.Errorf("void: %v", void)
	}
	if n := len(r.valid()); n != 1 {
		t.Errorf("%d valid rounds", n)
	}
}

func TestJudgeLeavesTimesAlone(t *testing.T) {
	r := rounds("1 connection p50", [2]float64{100, 100}, [2]float64{900, 100})
	r.judge()
	if len(r.valid()) != 2 {
		t.Error(r.voids())
	}
}

func TestRatioIsOfTheSameRound(t *testing.T) {
	// The machine is slower in two rounds; the ratio does not change.
	r := rounds("bulk up", [2]float64{30, 60}, [2]float64{20, 40}, [2]float64{20, 40})
	if s := spreadOf(r.ratios("bulk up")); s != (spread{2, 2, 2}) {
		t.Errorf("%+v", s)
	}
	if row := r.row(metricOf("bulk up")); !strings.Contains(row, "| 20 (20–30) | 40 (40–60) | 2 (2–2) | ≥ 1.8 | met |") {
		t.Error(row)
	}
}

func TestBars(t *testing.T) {
	for _, c := range []struct {
		metric string
		ours   float64
		missed bool
	}{
		{"bulk up", 1.8, false},
		{"bulk up", 1.79, true},
		{"behind bulk up p50", 0.33, false},
		{"behind bulk up p50", 0.34, true},
		{"bulk up CPU", 5, false},
	} {
		r := rounds(c.metric, [2]float64{1, c.ours})
		if got := len(r.missed()) > 0; got != c.missed {
			t.Errorf("%s at %v times the wheel's: missed %v", c.metric, c.ours, got)
		}
	}
}

func TestSpread(t *testing.T) {
	if s := spreadOf([]float64{5, 1, 3}); s != (spread{3, 1, 5}) {
		t.Error(s)
	}
	if s := spreadOf([]float64{4, 1, 2, 3}); s != (spread{2.5, 1, 4}) {
		t.Error(s)
	}
	var times []time.Duration
	for i := range 101 {
		times = append(times, time.Duration(i))
	}
	if p50, p99 := percentile(times, 50), percentile(times, 99); p50 != 50 || p99 != 99 {
		t.Error(p50, p99)
	}
	if percentile(nil, 50) != 0 {
		t.Error("a percentile of nothing")
	}
}

func TestPositionFindsWrongBytes(t *testing.T) {
	var from, to position
	for sent := 0; sent < 2*len(noise); {
		b := from.next(100_000)
		if err := to.check(b); err != nil {
			t.Fatalf("at %d: %v", sent, err)
		}
		sent += len(b)
	}
	b := append([]byte(nil), from.next(1000)...)
	b[999] ^= 1
	if to.check(b) == nil {
		t.Error("a wrong byte was not seen")
	}
}

func TestOptions(t *testing.T) {
	for _, bad := range [][]string{
		{"-peers", "nothing"}, {"-only", "nothing"}, {"-rounds", "0"}, {"-idle", "9000"}, {"extra"}, {"-peers", ""},
	} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	o, err := parseOptions([]string{"-quick", "-only", "bulk up,idle RSS"})
	if err != nil || o.Rounds != 1 || len(o.Only) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestBarsOnMemoryWantManyConnections(t *testing.T) {
	r := rounds("idle RSS, exit, used", [2]float64{1, 0.5})
	r.Options.Idle = 500
	if missed := r.missed(); len(missed) != 0 {
		t.Errorf("judged with 500 connections: %v", missed)
	}
	r.Options.Idle = 4000
	if len(r.missed()) != 1 {
		t.Error("not judged with 4,000")
	}
}

func metricOf(name string) metric {
	for _, m := range metrics {
		if m.Name == name {
			return m
		}
	}
	panic("unknown metric " + name)
}
