package testkit

import (
	"os"
	"testing"
	"time"
)

func TestDescriptorsAreCounted(t *testing.T) {
	before := must[int](t)(Descriptors(os.Getpid()))
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	during := must[int](t)(Descriptors(os.Getpid()))
	f.Close()
	after := must[int](t)(Descriptors(os.Getpid()))
	if during != before+1 || after != before {
		t.Errorf("descriptors %d, with one more open %d, after closing it %d", before, during, after)
	}
}

func TestPeakMemoryFollowsAndResets(t *testing.T) {
	const size = 64 << 20
	big := PayloadBytes(1, size)
	m := must[Memory](t)(MemoryOf(os.Getpid()))
	if m.Peak < size || m.RSS < size {
		t.Errorf("holding %d bytes: %+v", size, m)
	}
	if big[0] == 0 && big[1] == 0 && big[2] == 0 { // keeps it alive until here
		t.Error("the payload is not random")
	}
	if err := ResetPeak(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if after := must[Memory](t)(MemoryOf(os.Getpid())); after.Peak > m.Peak {
		t.Errorf("peak %d after the reset, %d before", after.Peak, m.Peak)
	}
}

func TestCPUTimeGrowsWithWork(t *testing.T) {
	start := must[time.Duration](t)(CPUTime(os.Getpid()))
	Eventually(t, time.Minute, func() error {
		PayloadHash(1, 16<<20)
		now := must[time.Duration](t)(CPUTime(os.Getpid()))
		if now <= start {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
}

func TestUsageOfNoProcess(t *testing.T) {
	const nobody = 1 << 30 // above every pid_max
	if _, err := Descriptors(nobody); err == nil {
		t.Error("descriptors of no process")
	}
	if _, err := MemoryOf(nobody); err == nil {
		t.Error("memory of no process")
	}
	if _, err := CPUTime(nobody); err == nil {
		t.Error("time of no process")
	}
}
