//go:build !race

package top

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
)

// TestTenThousandTunnels: taking an answer with 10,000 tunnels and drawing it, and
// each key after it, is far below the second between two answers.
func TestTenThousandTunnels(t *testing.T) {
	var list []map[string]any
	for i := range 10_000 {
		list = append(list, tunnelOf(fmt.Sprintf("t%05d", i), fmt.Sprintf("user%d", i), i*7919%10_000, i))
	}
	body, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{Ask: func(string, string) ([]byte, error) { return body, nil }, Interval: time.Second})
	m.Update(tea.WindowSizeMsg{Width: 200, Height: 60})
	fastest := func(do func()) time.Duration {
		best := time.Hour
		for range 5 {
			began := time.Now()
			do()
			m.View()
			best = min(best, time.Since(began))
		}
		return best
	}
	poll := fastest(func() { m.Update(m.poll(time.Now())()) })
	key := fastest(func() { m.Update(tea.KeyPressMsg{Code: tea.KeyDown}) })
	filter := fastest(func() { m.setFilter("user9") })
	t.Logf("an answer of %d bytes: %v, a key: %v, a filter: %v", len(body), poll, key, filter)
	if poll > 300*time.Millisecond || key > 20*time.Millisecond || filter > 50*time.Millisecond {
		t.Errorf("an answer of %d bytes: %v, a key: %v, a filter: %v", len(body), poll, key, filter)
	}
}
