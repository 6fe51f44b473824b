package tunnel_test

import (
	"fmt"
	"testing"

	"github.com/culvertgate/culvert/tunnel"
)

// BenchmarkDatagramConn passes datagrams through a connection to its Endpoint and
// back, some at once.
func BenchmarkDatagramConn(b *testing.B) {
	for _, size := range []int{200, 1200} {
		for _, burst := range []int{1, 32} {
			b.Run(fmt.Sprintf("%d bytes, %d at once", size, burst), func(b *testing.B) {
				conn, ep := newDatagramConn()
				packet, room := make([]byte, size), make([]byte, tunnel.MaxDatagram)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					_, _ = conn.Write(packet)
					_, _ = ep.TryWrite(packet)
					if i%burst < burst-1 {
						continue
					}
					for range burst {
						if _, err := ep.TryRead(room); err != nil {
							b.Fatal(err)
						}
						if _, err := conn.Read(room); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
