//go:build linux

package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// result is everything a run found; it is what -json writes.
type result struct {
	Time     time.Time         `json:"time"`
	Command  []string          `json:"command"`
	Options  options           `json:"options"`
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	// Configs are the templates of our peers' Caddyfiles.
	Configs map[string]string `json:"configs"`
	Rounds  []*round          `json:"rounds"`
}

type machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
}

func newResult(o options) (*result, error) {
	r := &result{
		Time: time.Now(), Command: os.Args, Options: o, Machine: thisMachine(),
		Versions: map[string]string{
			"go":                   runtime.Version(),
			"commit":               commit(),
			"keeper-pam-webrtc-rs": testkit.WheelVersion,
		},
		Configs: map[string]string{"gateway": gatewayCaddyfile, "client": clientCaddyfile},
	}
	if !slices.Contains(o.Peers, "culvert") {
		return r, nil
	}
	binary, err := testkit.CaddyBinary()
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		for _, name := range []string{"caddyserver/caddy/v2", "mholt/caddy-l4", "pion/webrtc", "pion/sctp", "pion/dtls", "pion/ice"} {
			if strings.Contains(m.Path, name) {
				r.Versions[m.Path] = m.Version
			}
		}
	}
	return r, nil
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU()}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	m.CPU = procField("/proc/cpuinfo", "model name")
	m.Memory = procField("/proc/meminfo", "MemTotal")
	return m
}

func procField(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// commit names the source, with a mark when the work tree differs from it.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// judge voids the rounds in which a rate fell below half of the same peer's
// best, and returns them. It is done again after each round, because the best
// may be a later one.
func (r *result) judge() []*round {
	var void []*round
	for _, name := range r.Options.Peers {
		for _, m := range metrics {
			if !m.Rate {
				continue
			}
			best := 0.0
			for _, round := range r.Rounds {
				best = max(best, round.Samples[name][m.Name])
			}
			for _, round := range r.Rounds {
				if v, ok := round.Samples[name][m.Name]; ok && v < best/2 && round.Void == "" {
					round.Void = fmt.Sprintf("%s, %s: %s %s, less than half of its best, %s", name, m.Name, number(v), m.Unit, number(best))
					void = append(void, round)
				}
			}
		}
	}
	return void
}

func (r *result) valid() []*round {
	return slices.DeleteFunc(slices.Clone(r.Rounds), func(round *round) bool { return round.Void != "" })
}

// voids lists the rounds that do not count.
func (r *result) voids() string {
	var b strings.Builder
	for _, round := range r.Rounds {
		if round.Void != "" {
			fmt.Fprintf(&b, "- round %d: %s\n", round.Number, firstLine(round.Void))
		}
	}
	return b.String()
}

func (r *result) writeJSON(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
