package reference

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// web is an endpoint with one target, which a plain forward leads to.
const web = `
		target web tcp/127.0.0.1:9000
		default_target web
`

const (
	bulk = 50_000_000 // bytes each way
	half = 20_000_000 // bytes behind the end of the other direction
)

func TestListeningWheelEchoes(t *testing.T) {
	l := startListening(t, web, "", testkit.TubeSettings{})
	serveEcho(t, l.net, targetPort)
	c := dial(t, l.net, l.tube.ListenAddr)
	check(t, pingPong(c), echoes(c, 1, 300_000))
	becomes(t, "results", opened, l.gateway, counts{"ok": 1})
	becomes(t, "ends", ended, l.gateway, counts{"normal": 1})
}

// A plain forward of the reference can't name its target; the URL it offers to
// can.
func TestListeningWheelReachesTheTargetOfItsURL(t *testing.T) {
	l := startListening(t, web+"\t\ttarget other tcp/127.0.0.1:9001\n", "?target=other", testkit.TubeSettings{})
	serveWord(t, l.net, targetPort, "web")
	serveWord(t, l.net, targetPort+1, "other")
	word, err := io.ReadAll(dial(t, l.net, l.tube.ListenAddr))
	if err != nil || string(word) != "other" {
		t.Errorf("%q, %v", word, err)
	}
}

func TestListeningWheelCarries50MBEachWay(t *testing.T) {
	l := startListening(t, web, "", testkit.TubeSettings{})
	g := startTarget(t, l.net, targetPort)
	up := g.open(t, l.net, l.tube.ListenAddr)
	check(t, transfer(up.near, up.far, 1, bulk))
	down := g.open(t, l.net, l.tube.ListenAddr)
	check(t, transfer(down.far, down.near, 2, bulk))
}

func TestListeningWheelHalfClose(t *testing.T) {
	l := startListening(t, web, "", testkit.TubeSettings{})
	g := startTarget(t, l.net, targetPort)
	for _, before := range []int64{0, 1_000_000} {
		t.Run(fmt.Sprintf("the client ends first, after %d bytes", before), func(t *testing.T) {
			check(t, halfClosed(g.open(t, l.net, l.tube.ListenAddr), before, half))
		})
		t.Run(fmt.Sprintf("the target ends first, after %d bytes", before), func(t *testing.T) {
			s := g.open(t, l.net, l.tube.ListenAddr)
			check(t, halfClosed(stream{near: s.far, far: s.near}, before, half))
		})
	}
	becomes(t, "ends", ended, l.gateway, counts{"normal": 4})
}

func TestListeningWheelManyConnections(t *testing.T) {
	const serial, parallel = 200, 50
	l := startListening(t, web, "", testkit.TubeSettings{})
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
