package example

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestChildTalksBehind(t *testing.T) {
	t.Cleanup(func() {
		t.Logf("log of caddy:\n%s", strings.Repeat(`{"level":"debug","msg":"noise"}`+"\n", 5))
		for i := range 30 {
			fmt.Fprintf(os.Stderr, `{"level":"debug","n":%d}`+"\n", i)
		}
	})
	t.Logf("before: %d", 1)
	t.Errorf("the stream ended with %s,\nwant %s\n\nbehind a blank line", "normal", "timeout")
	t.Fatal("not within 30s")
}

func TestParent(t *testing.T) {
	t.Run("good", func(t *testing.T) {})
	t.Run("bad", func(t *testing.T) {
		t.Run("deep", func(t *testing.T) { t.Error("deep down") })
	})
	t.Run("parallel", func(t *testing.T) { t.Parallel(); time.Sleep(10 * time.Millisecond); t.Error("beside") })
	t.Error("the parent's own")
}

func TestRace(t *testing.T) {
	n, done := 0, make(chan bool)
	go func() { n++; close(done) }()
	n++
	<-done
}

func TestPanics(t *testing.T) {
	var m map[string]int
	m["a"] = 1
}
