package testkit

import (
	"os"
	"syscall"
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
	before := must[Memory](t)(MemoryOf(os.Getpid()))
	big := must[[]byte](t)(syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE))
	for i := 0; i < size; i += os.Getpagesize() {
		big[i] = 1
	}
	held := must[Memory](t)(MemoryOf(os.Getpid()))
	if held.RSS < before.RSS+size/2 || held.Peak < size {
		t.Errorf("holding %d bytes more: %+v, before %+v", size, held, before)
	}
	if err := syscall.Munmap(big); err != nil {
		t.Fatal(err)
	}
	if free := must[Memory](t)(MemoryOf(os.Getpid())); free.Peak < size {
		t.Errorf("the peak was forgotten: %+v", free)
	}
	if err := ResetPeak(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if after := must[Memory](t)(MemoryOf(os.Getpid())); after.Peak > held.Peak-size/2 {
		t.Errorf("after the reset %+v, before it %+v", after, held)
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
