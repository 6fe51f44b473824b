package reference

import (
	"io"
	"sync"
	"testing"
)

const (
	bulk = 50_000_000 // bytes each way
	half = 20_000_000 // bytes behind the end of the other direction
)

func TestListeningWheelEchoes(t *testing.T) {
	l := startListening(t, plan{})
	serveEcho(t, l.net, targetPort)
	c := dial(t, l.net, l.tube.ListenAddr)
	check(t, pingPong(c), echoes(c, 1, 300_000))
	becomes(t, "results", opened, l.gateway, counts{"ok": 1})
	becomes(t, "ends", ended, l.gateway, counts{"normal": 1})
}

// A plain forward of the reference can't name its target; the URL it offers to
// can.
func TestListeningWheelReachesTheTargetOfItsURL(t *testing.T) {
	l := startListening(t, plan{endpoint: web + "\t\ttarget other tcp/127.0.0.1:9001\n", query: "?target=other"})
	serveWord(t, l.net, targetPort, "web")
	serveWord(t, l.net, targetPort+1, "other")
	word, err := io.ReadAll(dial(t, l.net, l.tube.ListenAddr))
	if err != nil || string(word) != "other" {
		t.Errorf("%q, %v", word, err)
	}
}

func TestListeningWheelCarries50MBEachWay(t *testing.T) {
	l := startListening(t, plan{fast: true})
	g := startTarget(t, l.net, targetPort)
	up := g.open(t, l.net, l.tube.ListenAddr)
	check(t, transfer(up.near, up.far, 1, bulk))
	down := g.open(t, l.net, l.tube.ListenAddr)
	check(t, transfer(down.far, down.near, 2, bulk))
}

func TestListeningWheelHalfClose(t *testing.T) {
	l := startListening(t, plan{fast: true})
	g := startTarget(t, l.net, targetPort)
	t.Run("the client ends first", func(t *testing.T) {
		check(t, halfClosed(g.open(t, l.net, l.tube.ListenAddr), 1_000_000, half))
	})
	// Between two of the reference this one's end is lost.
	t.Run("the target ends first", func(t *testing.T) {
		s := g.open(t, l.net, l.tube.ListenAddr)
		check(t, halfClosed(stream{near: s.far, far: s.near}, 1_000_000, half))
	})
	becomes(t, "ends", ended, l.gateway, counts{"normal": 2})
}

func TestListeningWheelManyConnections(t *testing.T) {
	const serial, parallel = 200, 50
	l := startListening(t, plan{fast: true})
	serveEcho(t, l.net, targetPort)
	one := func(seed uint64) error {
		c, err := tryDial(l.net, l.tube.ListenAddr)
		if err != nil {
			return err
		}
		defer c.Close()
		return echoes(c, seed, 20_000)
	}
	check(t, one(0))
	becomes(t, "ends", ended, l.gateway, counts{"normal": 1})
	before := must[held](t)(holding(l.gateway))
	for i := range serial {
		if err := one(uint64(i)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	results := make([]error, parallel)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = one(uint64(serial + i)) })
	}
	wg.Wait()
	check(t, results...)
	becomes(t, "ends", ended, l.gateway, counts{"normal": 1 + serial + parallel})
	// The reference leaks a descriptor for each connection; we do not.
	backTo(t, l.gateway, before, patience)
}
