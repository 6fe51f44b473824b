//go:build unix

package rtc

import (
	"sync"
	"syscall"
	"testing"
	"time"
)

// cpuTime is what this process has used of the processors.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkBulk moves messages of 16 KiB from the client to the gateway, with at
// most 256 KiB unacknowledged, both in this process.
func BenchmarkBulk(b *testing.B) {
	const size, high = 16 << 10, 256 << 10
	g, d := testGateway(b, Options{}), testDialer(DialerConfig{})
	p := &pair{clientEnd: newEnd(), serverEnd: newEnd()}
	client, offer, err := d.Offer(b.Context(), []ChannelSpec{{}}, nil, p.clientEnd.handler())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close(0) })
	_, answer, err := g.Answer(b.Context(), offer, p.serverEnd.handler())
	if err != nil {
		b.Fatal(err)
	}
	if err := client.Accept(answer); err != nil {
		b.Fatal(err)
	}
	from, to := <-p.clientEnd.channels, <-p.serverEnd.channels
	b.SetBytes(size)
	b.ResetTimer()
	before := cpuTime(b)
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, MaxMessage)
		for range b.N {
			if err := to.Wait(); err != nil {
				b.Error(err)
				return
			}
			if _, err := to.ReadMessage(buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
	room := make(chan struct{}, 1)
	message := make([]byte, size)
	for range b.N {
		for from.Buffered() > high-size {
			from.NotifyLow(high*7/8, func() { room <- struct{}{} })
			<-room
		}
		if err := from.WriteMessage(message); err != nil {
			b.Fatal(err)
		}
	}
	reader.Wait()
	b.StopTimer()
	b.ReportMetric((cpuTime(b)-before).Seconds()*1e9/float64(size*b.N), "cpu-s/GB")
	b.ReportMetric(float64(g.Dropped()+client.private.dropped()), "drops")
}
