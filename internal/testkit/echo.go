package testkit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Echoes sends a datagram until it comes back, since one may be lost: for 20 s. What
// comes instead is an error.
func Echoes(c net.Conn, text string) error {
	got := make([]byte, 65536)
	for range 20 {
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(got)
		switch {
		case err == nil && string(got[:n]) == text:
			return nil
		case err == nil:
			return fmt.Errorf("sent %q, %q came", text, got[:n])
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
	return fmt.Errorf("%d bytes have not come back", len(text))
}
