package reactor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// lastWordConn says its last bytes and the end with one Read, as TLS 1.2 does
// when close_notify comes with the data.
type lastWordConn struct {
	net.Conn
	data string
	end  error
}

func (c *lastWordConn) Read(p []byte) (int, error) {
	n := copy(p, c.data)
	c.data = c.data[n:]
	if c.data == "" {
		return n, c.end
	}
	return n, nil
}

// TestEndWithTheLastBytes: an end that comes together with data is told when the
// data has been taken, since nothing more comes that could tell it.
func TestEndWithTheLastBytes(t *testing.T) {
	for _, size := range []int{1, idleRead, idleRead + 1, 2 * bufferSize} {
		for _, end := range []error{io.EOF, os.ErrClosed} {
			t.Run(fmt.Sprint(size, end), func(t *testing.T) {
				noLeaks(t)
				_, ours := net.Pipe()
				s := newStream(adopt(t, newReactor(t), &lastWordConn{Conn: ours, data: string(make([]byte, size)), end: end}, nil))
				defer s.ep.Close(framecodec.CodeNormal)
				want := end
				if errors.Is(end, io.EOF) {
					want = nil // what io.ReadAll makes of it
				}
				if got, err := io.ReadAll(s); len(got) != size || !errors.Is(err, want) {
					t.Errorf("%d of %d bytes, %v; want %v", len(got), size, err, end)
				}
			})
		}
	}
}
