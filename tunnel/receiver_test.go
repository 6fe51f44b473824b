package tunnel

import (
	"strconv"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// handSession is a session whose goroutines have ended: its parts are called by
// hand. Streams can be put into its table all the same.
func handSession(t testing.TB, d Dialect) *Session {
	t.Helper()
	s := NewSession(deafCarrier{make(chan struct{})}, Config{Dialect: d, Role: RoleGateway})
	s.Close(0, "")
	s.Wait()
	return s
}

// The receiver's own work for a data frame of a full message: parsing it, finding
// its stream, and handing the payload to an Endpoint that does nothing.
func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 16 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			s := handSession(b, Dialect1)
			s.table.put(1, &Stream{s: s, num: 1, ep: fullEnd{}, state: streamState{opened: true}})
			var message []byte
			n := 0
			for len(message)+size+framecodec.Overhead <= maxMessage {
				message = framecodec.AppendFrame(message, 1, 0, make([]byte, size))
				n++
			}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if rest, fault := s.frames(message); len(rest) > 0 || fault != nil {
					b.Fatal(len(rest), fault)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/frame")
		})
	}
}
