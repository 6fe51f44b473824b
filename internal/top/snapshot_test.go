package top

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestSnapshot(t *testing.T) {
	a := &api{list: []map[string]any{tunnelOf("aaa", "", 0, 0), tunnelOf("bbb", "b\x1bob\tx", 0, 0)}}
	ask := func(method, path string) ([]byte, error) {
		a.list[1]["bytes_in"] = a.list[1]["bytes_in"].(int) + 10<<20
		return a.ask(method, path)
	}
	var out strings.Builder
	if err := Snapshot(t.Context(), Config{Ask: ask, Interval: leastGap}, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || len(a.asked) != 2 || strings.ContainsAny(out.String(), "\x1b\t") {
		t.Fatalf("asked %v:\n%q", a.asked, out.String())
	}
	first, second := strings.Fields(lines[1]), strings.Fields(lines[2])
	if first[0] != "bbb" || !strings.HasSuffix(lines[1], "12 ms") || !strings.Contains(lines[1], "MiB/s") {
		t.Errorf("the fastest is not first: %q", lines[1])
	}
	if second[0] != "aaa" || second[3] != unknown {
		t.Errorf("an anonymous tunnel: %q", second)
	}
}

func TestSnapshotFails(t *testing.T) {
	refused := &UnreachableError{Err: errors.New("refused")}
	for name, answers := range map[string][]error{"at once": {refused}, "the second time": {nil, refused}} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			ask := func(string, string) ([]byte, error) {
				err := answers[0]
				answers = answers[1:]
				return []byte("[]"), err
			}
			if err := Snapshot(t.Context(), Config{Ask: ask, Interval: time.Millisecond}, &out); !errors.Is(err, refused.Err) || out.String() != "" {
				t.Errorf("%v, %q", err, out.String())
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ask := func(string, string) ([]byte, error) { return []byte("[]"), nil }
	if err := Snapshot(ctx, Config{Ask: ask, Interval: time.Hour}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	ask = func(string, string) ([]byte, error) { return []byte(`{"tunnels":1}`), nil }
	if err := Snapshot(t.Context(), Config{Ask: ask}, nil); !errors.Is(err, errUnreadable) {
		t.Errorf("another answer: %v", err)
	}
}
