package udp

import (
	"testing"
	"time"
)

// TestReceiveErrors: what the kernel drops because nobody reads is counted, also
// when the socket is closed.
func TestReceiveErrors(t *testing.T) {
	s := listen(t, "udp4", anyPort, Config{ReadBuffer: 4096})
	from := plain(t)
	if n := s.Stats().ReceiveErrors; n != 0 {
		t.Errorf("%d errors before any packet", n)
	}
	packet := make([]byte, 1200)
	for range 100 {
		send(t, from, s, packet)
	}
	// A busy machine delivers, and drops, a little later.
	n := s.Stats().ReceiveErrors
	for quiet := 0; quiet < 10; quiet++ {
		time.Sleep(20 * time.Millisecond)
		if now := s.Stats().ReceiveErrors; now != n {
			n, quiet = now, 0
		}
	}
	if n == 0 || n >= 100 {
		t.Errorf("%d of 100 packets that do not fit into 4 KiB were dropped", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.ReadFromAddrPort(packet); err == nil {
		t.Error("a closed socket can be read")
	}
	if got := s.Stats().ReceiveErrors; got != n {
		t.Errorf("%d behind the close, want %d", got, n)
	}
}
