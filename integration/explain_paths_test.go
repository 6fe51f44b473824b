package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

// paths are all ways that lead from a client to a target.
type paths struct {
	port      string // of the echo server
	dns       string // address of the DNS server
	targets   []string
	listeners map[string]string // of the entry with a fixed target
	peers     map[tunnel.Dialect]*peer
}

// alice asks, and is one of the group ops.
var aliceOfOps = http.Header{"X-User": {"alice"}, "X-Groups": {"ops"}}

// entries are the layer4 servers: one for each target, and one for SOCKS5.
func (w *paths) entries() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\tmetrics\n\tlayer4 {\n%s {\nroute {\nwebrtc_tunnel here socks5\n}\n}\n", socks1)
	for _, target := range slices.Sorted(maps.Keys(w.listeners)) {
		fmt.Fprintf(&b, "%s {\nroute {\nwebrtc_tunnel here %s\n}\n}\n", w.listeners[target], target)
	}
	b.WriteString("}\n")
	return b.String()
}

// connect makes the tunnels that serve a whole round.
func (w *paths) connect(t *testing.T) {
	t.Helper()
	w.peers = map[tunnel.Dialect]*peer{}
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		eventually(t, func() error {
			p, err := trySession(t, aliceOfOps, "", d)
			if err != nil && tunnel.CodeOf(err) != framecodec.CodeUnreachable { // the listener of before the reload took it
				t.Fatal(err)
			}
			w.peers[d] = p
			return err
		})
	}
}

func (w *paths) close() {
	for _, p := range w.peers {
		p.close()
	}
}

// reached is how an open by one path ended, as far as that path tells it, and
// how it would tell of a code.
type reached struct {
	outcome   string
	expressed func(framecodec.Code) string
}

// whole is a path that tells the code.
func whole(c framecodec.Code) reached { return reached{c.String(), framecodec.Code.String} }

// openAll opens a target in every way there is.
func (w *paths) openAll(t *testing.T, target string) map[string]reached {
	t.Helper()
	parsed, err := tunnel.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]reached{
		"a stream": whole(openCode(w.peers[tunnel.Dialect2], parsed)),
		"an entry": whole(w.entryCode(t, target)),
	}
	if !parsed.Named() {
		all["a stream of dialect 1"] = closeReason(openCode(w.peers[tunnel.Dialect1], parsed))
		conn, reply := socksRequest(t, parsed.Host, parsed.Port)
		conn.Close()
		all["SOCKS5"] = reached{reply.String(), socksReply}
		return all
	}
	all["a raw channel"] = whole(rawCode(t, aliceOfOps, target))
	for _, d := range []tunnel.Dialect{tunnel.Dialect1, tunnel.Dialect2} {
		name := fmt.Sprintf("?target= in dialect %d", d)
		p, err := trySession(t, aliceOfOps, target, d)
		if err != nil {
			all[name] = whole(tunnel.CodeOf(err))
			continue
		}
		all[name] = closeReason(openCode(p, unnamed))
		p.close()
	}
	if target == "named" {
		for d, p := range w.peers {
			all[fmt.Sprintf("default_target in dialect %d", d)] = closeReason(openCode(p, unnamed))
		}
	}
	return all
}

// unnamed is what a peer asks for that names no target.
var unnamed = tunnel.Target{Kind: tunnel.KindNamed}

// openCode opens a stream, and returns the code of that or of the echo.
func openCode(p *peer, target tunnel.Target) framecodec.Code {
	conn, ep := tunnel.NewConn(tunnel.Addr{Net: "webrtc"}, tunnel.Addr{Net: "webrtc", Text: target.String()})
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	_, err := p.session.Open(ctx, target, ep)
	if err == nil {
		err = pingPong(conn)
		conn.Close()
	}
	if err == nil {
		return framecodec.CodeNormal
	}
	return tunnel.CodeOf(err)
}

// closeReason is a path that tells a close reason of dialect 1, which is less
// than a code: several codes share one.
func closeReason(c framecodec.Code) reached {
	return reached{c.Reason().Code().String(), func(c framecodec.Code) string { return c.Reason().Code().String() }}
}

func socksReply(c framecodec.Code) string {
	if c == framecodec.CodeNormal {
		return socks5.Succeeded.String()
	}
	return socks5.Reply(c.SOCKSReply()).String()
}

// entryCode connects to the entry that leads to a target. The client sees an
// echo or a reset; the code is in the metrics.
func (w *paths) entryCode(t *testing.T, target string) framecodec.Code {
	t.Helper()
	before := clientOpens(t)
	c, err := net.Dial("tcp", w.listeners[target])
	if err == nil {
		err = pingPong(c)
		c.Close()
	}
	if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the entry of %s: %v, want an echo or a reset", target, err)
	}
	var result string
	eventually(t, func() error {
		now := clientOpens(t)
		for r, n := range now {
			if n > before[r] {
				result = r
				return nil
			}
		}
		return errors.New("no open was counted")
	})
	if (err == nil) != (result == "ok") {
		t.Errorf("the entry of %s: %v, counted as %s", target, err, result)
	}
	if result == "ok" {
		return framecodec.CodeNormal
	}
	code, ok := framecodec.ParseCode(result)
	if !ok {
		t.Fatalf("the metrics count the result %q", result)
	}
	return code
}

// clientOpens returns how often streams of remotes were opened, by result.
func clientOpens(t *testing.T) map[string]float64 {
	t.Helper()
	_, values := scrape(t)
	byResult := map[string]float64{}
	for series, n := range values {
		if !strings.HasPrefix(series, "streams_opened_total{") || !strings.Contains(series, `side="client"`) {
			continue
		}
		_, rest, _ := strings.Cut(series, `result="`)
		result, _, _ := strings.Cut(rest, `"`)
		byResult[result] += n
	}
	return byResult
}
