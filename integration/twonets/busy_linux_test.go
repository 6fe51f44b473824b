//go:build !race

package twonets

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// foreignLoad is the part of the machine that others may use while time is
// measured strictly.
const foreignLoad = 0.15

// tries is how often a measurement that others disturbed is repeated.
const tries = 3

// measure calls once up to tries times, until it has nothing to complain of. What
// it complains of the last time counts, strict bounds included, if others left the machine
// alone; else only what loose holds.
func measure(t *testing.T, once func(try int) (strict, loose []string, others float64)) {
	t.Helper()
	for try := 1; ; try++ {
		strict, loose, others := once(try)
		switch {
		case len(strict)+len(loose) == 0:
			return
		case try < tries:
			t.Logf("others used %.0f %% of the machine, once more: %s", 100*others, strings.Join(append(strict, loose...), "; "))
		case others < foreignLoad:
			t.Errorf("on a quiet machine (others used %.0f %% of it): %s", 100*others, strings.Join(append(strict, loose...), "; "))
			return
		case len(loose) > 0:
			t.Errorf("others used %.0f %% of the machine, but: %s", 100*others, strings.Join(loose, "; "))
			return
		default:
			t.Logf("NOT PROVEN in %d tries, others used %.0f %% of the machine: %s", tries, 100*others, strings.Join(strict, "; "))
			return
		}
	}
}

// cpu is what the machine has computed since it was started, and what we and the
// world's programs have.
type cpu struct{ busy, all, ours time.Duration }

// cpu reads it. Time in which another virtual machine had a processor is busy.
func (w *world) cpu() cpu {
	w.t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		w.t.Fatal(err)
	}
	var user, nice, system, idle, iowait, irq, softirq, steal int64
	line, _, _ := strings.Cut(string(text), "\n")
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		w.t.Fatalf("/proc/stat: %v", err)
	}
	const tick = time.Second / 100 // USER_HZ
	busy := user + nice + system + steal
	c := cpu{busy: time.Duration(busy) * tick, all: time.Duration(busy+idle+iowait+irq+softirq) * tick}
	for _, pid := range []int{os.Getpid(), w.gateway.PID(), w.client.PID()} {
		used, err := testkit.CPUTime(pid)
		if err != nil {
			w.t.Fatal(err)
		}
		c.ours += used
	}
	return c
}

// others is the part of the machine that strangers had since before.
func (w *world) others(before cpu) float64 {
	w.t.Helper()
	now := w.cpu()
	strange := now.busy - before.busy - (now.ours - before.ours)
	return max(0, float64(strange)/float64(max(now.all-before.all, 1)))
}
