package reactor

import (
	"io"
	"net"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// BenchmarkRoundTrip is one request of 64 bytes and its echo by a stream of the
// reactor.
func BenchmarkRoundTrip(b *testing.B) {
	for _, name := range []string{"tcp", "portable", "goroutine"} {
		b.Run(name, func(b *testing.B) {
			ours, theirs := listenerPair(b, "tcp", "127.0.0.1:0")
			var r *Reactor
			switch name {
			case "goroutine": // what a blocking copy costs
				go func() { _, _ = io.Copy(ours, struct{ io.Reader }{ours}) }()
				b.Cleanup(func() { _ = ours.Close() })
			case "portable":
				ours = opaque{ours}
				fallthrough
			default:
				r = newReactor(b)
				ep := adopt(b, r, ours, nil)
				b.Cleanup(func() { ep.Close(framecodec.CodeCancelled) })
				go func() { _ = echo(newStream(ep)) }()
			}
			roundTrips(b, theirs)
		})
	}
}

func roundTrips(b *testing.B, c net.Conn) {
	request, response := make([]byte, 64), make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, response); err != nil {
			b.Fatal(err)
		}
	}
}
