package reference

import (
	"testing"
	"time"
)

func TestDebug(t *testing.T) {
	for _, open := range []bool{false, true} {
		l := startListening(t, plan{})
		g := startTarget(t, l.net, targetPort)
		s := g.open(t, l.net, l.tube.ListenAddr)
		if !open {
			s.near.Close()
			s.far.Close()
			time.Sleep(time.Second)
		}
		l.wheel.Kill()
		start := time.Now()
		t.Log(open, l.gateway.Stop(60*time.Second), time.Since(start))
	}
}
