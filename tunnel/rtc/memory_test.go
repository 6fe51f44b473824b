package rtc

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// strangersOffer is one that nobody means: nothing ever comes from its author.
func strangersOffer(i int) string {
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"+
		"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\n"+
		"a=ice-ufrag:stranger%06d\r\na=ice-pwd:%024d\r\n%s\r\n", i, i, fingerprintLine)
}

// held is what lives in this process, in bytes and goroutines.
type held struct{ heap, stacks, goroutines int64 }

func heldNow() held {
	runtime.GC()
	runtime.GC() // what the first has swept out of pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return held{int64(m.HeapAlloc), int64(m.StackInuse), int64(runtime.NumGoroutine())}
}

// BenchmarkPendingHandshake tells what an answered offer costs while nobody
// comes: the slope between 50 and 250 of them.
func BenchmarkPendingHandshake(b *testing.B) {
	const few, many = 50, 250
	for b.Loop() {
		g := testGateway(b, Options{ConnectTimeout: time.Minute})
		var peers []*Peer
		var at held
		for i := range many {
			if i == few {
				at = heldNow()
			}
			p, _, err := g.Answer(context.Background(), strangersOffer(i), Handler{})
			if err != nil {
				b.Fatal(err)
			}
			peers = append(peers, p)
		}
		now := heldNow()
		const n = many - few
		b.ReportMetric(float64(now.heap-at.heap)/n, "heap-B/peer")
		b.ReportMetric(float64(now.stacks-at.stacks)/n, "stack-B/peer")
		b.ReportMetric(float64(now.goroutines-at.goroutines)/n, "goroutines/peer")
		for _, p := range peers {
			p.Close(framecodec.CodeNormal)
		}
	}
}
