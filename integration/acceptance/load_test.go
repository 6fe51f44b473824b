package acceptance

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// foreignLoad is the part of the machine that others may use while something is
// measured in seconds.
const foreignLoad = 0.2

// machineLoad is what the machine has computed since it was started.
type machineLoad struct {
	busy, all time.Duration // of all processors
}

// readMachineLoad reads the first line of /proc/stat. Time in which another
// virtual machine had the processor counts as busy; that of interrupts does not
// count, since it belongs to whoever's packets they are.
func readMachineLoad() (machineLoad, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineLoad{}, err
	}
	var user, nice, system, idle, iowait, irq, softirq, steal int64
	line, _, _ := strings.Cut(string(text), "\n")
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		return machineLoad{}, fmt.Errorf("/proc/stat: %w", err)
	}
	const tick = time.Second / 100 // USER_HZ
	busy := user + nice + system + steal
	return machineLoad{time.Duration(busy) * tick, time.Duration(busy+idle+iowait+irq+softirq) * tick}, nil
}

// foreign begins to watch what others than this process and c compute, and
// returns a function that tells their part of the machine since then.
func foreign(t testing.TB, c *testkit.Caddy) func() float64 {
	t.Helper()
	look := func() (machineLoad, time.Duration) {
		ours := must[time.Duration](t)(testkit.CPUTime(os.Getpid()))
		theirs := must[testkit.Usage](t)(c.Usage()).CPU
		return must[machineLoad](t)(readMachineLoad()), ours + theirs
	}
	machine, ours := look()
	return func() float64 {
		now, oursNow := look()
		others := now.busy - machine.busy - (oursNow - ours)
		return max(0, float64(others)/float64(max(now.all-machine.all, 1)))
	}
}
