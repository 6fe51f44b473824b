package top

import (
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	first := reading{"a", epoch, 1000, 2000}
	for name, test := range map[string]struct {
		after time.Duration
		now   []reading
		want  rate // of a
	}{
		"nothing new":            {time.Second, []reading{first}, rate{0, 0, true}},
		"both directions":        {2 * time.Second, []reading{{"a", epoch, 2000, 2500}}, rate{500, 250, true}},
		"it went":                {time.Second, nil, rate{}},
		"another came":           {time.Second, []reading{first, {"b", epoch, 9, 9}}, rate{0, 0, true}},
		"it has another id":      {time.Second, []reading{{"b", epoch, 2000, 2500}}, rate{}},
		"another with its id":    {time.Second, []reading{{"a", epoch.Add(time.Second), 2000, 2500}}, rate{}},
		"a counter went back":    {time.Second, []reading{{"a", epoch, 999, 9000}}, rate{}},
		"the other one went":     {time.Second, []reading{{"a", epoch, 9000, 0}}, rate{}},
		"too near to tell":       {leastGap - 1, []reading{{"a", epoch, 1 << 60, 1 << 60}}, rate{}},
		"the clock was put back": {-time.Second, []reading{{"a", epoch, 1 << 60, 1 << 60}}, rate{}},
		"counters without limit": {time.Second, []reading{{"a", epoch, 1<<64 - 1, 2000}}, rate{1<<64 - 1 - 1000, 0, true}},
	} {
		t.Run(name, func(t *testing.T) {
			var m meter
			m.read(epoch, []reading{first})
			if got := m.rate("a"); got != (rate{}) {
				t.Errorf("after one reading: %v", got)
			}
			m.read(epoch.Add(test.after), test.now)
			if got := m.rate("a"); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
	// What came is known at its second reading, over the time since its first.
	var m meter
	m.read(epoch, nil)
	m.read(epoch.Add(time.Second), []reading{first})
	m.read(epoch.Add(3*time.Second), []reading{{"a", epoch, 3000, 2000}})
	if got := m.rate("a"); got != (rate{1000, 0, true}) {
		t.Errorf("%v", got)
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 400 * time.Millisecond: "0s", 12 * time.Second: "12s", 59*time.Second + 600*time.Millisecond: "1m00s",
		5*time.Minute + 3*time.Second: "5m03s", 3*time.Hour + 7*time.Minute: "3h07m", 14*24*time.Hour + 2*time.Hour: "14d02h",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
