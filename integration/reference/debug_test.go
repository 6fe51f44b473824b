package reference

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestDebug(t *testing.T) {
	l := startSOCKS(t)
	for i := 0; i < 12; i++ {
		c := dial(t, l.net, l.tube.ListenAddr)
		c.SetDeadline(time.Now().Add(3 * time.Second))
		t.Log(i+1, askSOCKS(c, []string{noRoute, "127.0.0.1", "nowhere.example"}[i%3], 80))
	}
	time.Sleep(100 * time.Millisecond)
	text, _ := l.gateway.Get(context.Background(), "/metrics")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "caddy_webrtc_tunnel_streams_op") {
			t.Log(line)
		}
	}
	t.Log(l.closings())
	os.WriteFile("/tmp/wheel.log", []byte(l.wheel.Log()[l.mark:]), 0o600)
	os.WriteFile("/tmp/gateway.log", []byte(l.gateway.Log()), 0o600)
	fmt.Println()
}
