package twonets

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// faultReport is what was seen, for people.
type faultReport struct {
	lines []faultLine
}

type faultLine struct {
	name   string
	reload bool
	seen   seen
	err    error
	took   time.Duration
}

func (r *faultReport) add(name string, reload bool, s seen, err error, took time.Duration) {
	r.lines = append(r.lines, faultLine{name, reload, s, err, took})
}

// text is the table for a terminal.
func (r *faultReport) text() string {
	var b strings.Builder
	for _, l := range r.lines {
		name, verdict := l.name, "ok"
		if l.reload {
			name += ", reloading"
		}
		if l.err != nil {
			verdict = "FAILED"
		}
		fmt.Fprintf(&b, "%-64s %-6s %8v lost %d  app %q client %q gateway %q (%s) [%v]\n", name, verdict, roughly(l.seen.recovery), l.seen.lost, l.seen.application, l.seen.client, l.seen.gateway, l.seen.note, l.took.Round(100*time.Millisecond))
	}
	return b.String()
}

// roughly rounds to what can be told apart.
func roughly(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(100 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond)
	default:
		return max(d, 0).Round(100 * time.Microsecond)
	}
}

// markdown is docs/faults.md.
func (r *faultReport) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What it survives

Written by `+"`make faults`"+` on %s, on %s. A row that saw something else than was expected says **failed**. Every row ran against two Caddy processes in network
namespaces of their own, joined by a user-space cable (5 ms each way unless the row says otherwise), while
streams carried known bytes both ways. What is expected stands in
[faults_expected_linux_test.go](../integration/twonets/faults_expected_linux_test.go), was there before the run, and a row that sees anything else fails:
other codes, a longer recovery, bytes lost, altered or doubled, a goroutine, descriptor or stream that is left afterwards.
Time-outs in this suite: `+"`dial 3s`, `keepalive 4s`, `connect 5s`"+`, all else as it is by default.

*Recovery* is from the end of the fault until bytes sent after it came both ways, or a new stream worked; where the fault has
no end of its own, it is the longest that anybody had to wait. *Lost* are bytes sent on streams that were to live. What is under
way on a stream that is cut is lost with it; what came before the cut was exact.
The second figure of a pair is the run with both configurations reloaded in the middle of the fault.

| fault | the programs saw | code at the client | at the gateway | recovery: at most | seen | lost | |
|---|---|---|---|---|---|---|---|
`, time.Now().UTC().Format("2006-01-02"), machine())
	for i, l := range r.lines {
		if l.reload {
			continue
		}
		again := faultLine{}
		if i+1 < len(r.lines) && r.lines[i+1].reload {
			again = r.lines[i+1]
		}
		recovery, lost := roughly(l.seen.recovery).String(), fmt.Sprint(l.seen.lost)
		if again.name != "" {
			recovery += " / " + roughly(again.seen.recovery).String()
			lost += fmt.Sprintf(" / %d", again.seen.lost)
		}
		note := l.seen.note
		for _, run := range []faultLine{l, again} {
			if run.err != nil {
				first, _, _ := strings.Cut(run.err.Error(), "\n")
				note = strings.TrimPrefix(note+"; **failed**: "+first, "; ")
			}
		}
		want := expectations[l.name]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %v | %s | %s | %s |\n", l.name, l.seen.application, code(l.seen.client), code(l.seen.gateway), want.recovery, recovery, lost, note)
	}
	return b.String()
}

func code(s string) string {
	if s == "" {
		return "-"
	}
	return "`" + strings.ReplaceAll(s, ", ", "`, `") + "`"
}

// machine says what this ran on.
func machine() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	model := "an unknown processor"
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d cores of %s, Linux %s, %s", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)), runtime.Version())
}
