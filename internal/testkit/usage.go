package testkit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Memory is what the kernel says of a process, in bytes.
type Memory struct {
	RSS  int64 // resident now (VmRSS)
	Peak int64 // largest resident so far, or since ResetPeak (VmHWM)
}

// Descriptors returns the number of open descriptors of a process.
func Descriptors(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries), err
}

// MemoryOf reads /proc/PID/status.
func MemoryOf(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, err
	}
	rss, err1 := statusKiB(text, "VmRSS:")
	peak, err2 := statusKiB(text, "VmHWM:")
	if err1 != nil {
		return Memory{}, err1
	}
	return Memory{RSS: rss, Peak: peak}, err2
}

func statusKiB(status []byte, field string) (int64, error) {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in the process status", field)
}

// ResetPeak lets Memory.Peak of a process start anew.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// CPUTime returns the processor time of a process, user and system together,
// in steps of 10 ms.
func CPUTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold spaces.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: short stat line", pid)
	}
	var ticks int64
	for _, field := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 on every Linux
}

// Profile is what a Go process says of itself through its pprof endpoint.
type Profile struct {
	Goroutines int
	HeapAlloc  int64 // bytes, after a collection
	StackInuse int64 // bytes
}

// ReadProfile asks the pprof endpoint below base (Caddy's admin API), which
// makes the process collect its garbage first.
func ReadProfile(ctx context.Context, client *http.Client, base string) (Profile, error) {
	var p Profile
	heap, err := get(ctx, client, base+"/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return p, err
	}
	routines, err := get(ctx, client, base+"/debug/pprof/goroutine?debug=1")
	if err != nil {
		return p, err
	}
	if _, err := fmt.Sscanf(routines, "goroutine profile: total %d", &p.Goroutines); err != nil {
		return p, fmt.Errorf("reading the goroutine profile: %w", err)
	}
	for line := range strings.Lines(heap) {
		_, _ = fmt.Sscanf(line, "# HeapAlloc = %d", &p.HeapAlloc)
		_, _ = fmt.Sscanf(line, "# Stack = %d /", &p.StackInuse)
	}
	if p.HeapAlloc == 0 || p.StackInuse == 0 {
		return p, fmt.Errorf("heap profile without HeapAlloc or Stack")
	}
	return p, nil
}

// GoroutineDump returns the stacks of all goroutines of the process.
func GoroutineDump(ctx context.Context, client *http.Client, base string) (string, error) {
	return get(ctx, client, base+"/debug/pprof/goroutine?debug=2")
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode/100 != 2 {
		return "", fmt.Errorf("GET %s: %s: %s", url, resp.Status, text)
	}
	return string(text), nil
}
