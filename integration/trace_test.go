package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"testing"

	"github.com/culvertgate/culvert/tunnel/client"
)

// TestStreamTrace: a stream's trace context is in the logs of both sides, one that an
// entry begins and one that a program brings.
func TestStreamTrace(t *testing.T) {
	start(t, global(remoteHere, "\tlayer4 {\n"+entry1+" {\nroute {\nwebrtc_tunnel here echo\n}\n}\n}\n")+site("target echo tcp/"+echoServer(t)))
	before := len(logged(t))
	c, err := net.Dial("tcp", entry1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := pingPong(c); err != nil {
		t.Fatal(err)
	}
	traces := regexp.MustCompile(`"side":"(client|gateway)".*"stream_traceparent":"([0-9a-f-]{55})"`)
	eventually(t, func() error {
		sides := map[string]string{}
		for _, m := range traces.FindAllStringSubmatch(logged(t)[before:], -1) {
			sides[m[1]] = m[2]
		}
		if sides["client"] == "" || sides["client"] != sides["gateway"] {
			return fmt.Errorf("the sides say %v", sides)
		}
		return nil
	})
	const mine = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	p, err := client.Dial(t.Context(), client.Config{URLs: []string{siteURL}, Header: func(context.Context) (http.Header, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for _, trace := range []string{mine, "not a trace\"x"} {
		conn, err := p.Open(client.WithTraceparent(t.Context(), trace), "echo")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	eventually(t, func() error {
		found := 0
		for _, m := range traces.FindAllStringSubmatch(logged(t)[before:], -1) {
			if m[2] == mine {
				found++
			}
		}
		if found != 1 {
			return fmt.Errorf("%d lines with the trace of the program", found)
		}
		return nil
	})
}
