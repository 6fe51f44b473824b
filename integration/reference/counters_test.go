package reference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// counts are the values of one counter by one of its labels.
type counts map[string]int

// The two counters that say how streams begin (by result) and end (by code).
func opened(c *testkit.Caddy) (counts, error) { return readCounts(c, "streams_opened_total", "result") }
func ended(c *testkit.Caddy) (counts, error)  { return readCounts(c, "stream_ends_total", "code") }

func readCounts(c *testkit.Caddy, name, label string) (counts, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := c.Get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	sums := counts{}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "caddy_webrtc_tunnel_"+name+"{")
		if !ok {
			continue
		}
		_, value, _ := strings.Cut(rest, label+`="`)
		value, _, _ = strings.Cut(value, `"`)
		n, err := strconv.Atoi(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if n > 0 {
			sums[value] += n
		}
	}
	return sums, nil
}

// becomes waits until a process has counted just this since it was started.
func becomes(t testing.TB, what string, read func(*testkit.Caddy) (counts, error), c *testkit.Caddy, want counts) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		got, err := read(c)
		if err == nil && !maps.Equal(got, want) {
			err = fmt.Errorf("%s: %v, want %v", what, got, want)
		}
		return err
	})
}

// tunnelInfo is what the tests need of GET /webrtc_tunnel/tunnels.
type tunnelInfo struct {
	ID      string
	State   string
	Dialect int
	Streams int
}

func tunnels(c *testkit.Caddy) ([]tunnelInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := c.Get(ctx, "/webrtc_tunnel/tunnels")
	if err != nil {
		return nil, err
	}
	var list []tunnelInfo
	return list, json.Unmarshal([]byte(text), &list)
}

// onlyTunnel waits for the one tunnel of a process, which must speak dialect 1.
func onlyTunnel(t testing.TB, c *testkit.Caddy) tunnelInfo {
	t.Helper()
	var list []tunnelInfo
	testkit.Eventually(t, patience, func() (err error) {
		if list, err = tunnels(c); err == nil && (len(list) != 1 || list[0].State != "open" || list[0].Dialect != 1) {
			err = fmt.Errorf("tunnels: %+v, want one of dialect 1 that is open", list)
		}
		return err
	})
	return list[0]
}

// held is what a process keeps besides its memory.
type held struct{ Goroutines, Descriptors int }

func holding(c *testkit.Caddy) (held, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	profile, err := c.Profile(ctx)
	usage, err2 := c.Usage()
	return held{profile.Goroutines, usage.Descriptors}, errors.Join(err, err2)
}

// backTo waits until a process holds no more than before.
func backTo(t testing.TB, c *testkit.Caddy, before held, timeout time.Duration) {
	t.Helper()
	testkit.Eventually(t, timeout, func() error {
		now, err := holding(c)
		if err == nil && (now.Goroutines > before.Goroutines || now.Descriptors > before.Descriptors) {
			err = fmt.Errorf("holds %+v, before %+v", now, before)
		}
		return err
	})
}

// remove sends DELETE to the admin API.
func remove(c *testkit.Caddy, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	status, text, err := c.Do(ctx, "DELETE", path, "", "")
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("DELETE %s: %d %s", path, status, text)
	}
	return err
}
