package reference

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// transfer sends size bytes and the end from one socket to another, and compares
// what arrives by its hash.
func transfer(from, to *net.TCPConn, seed uint64, size int64) error {
	deadline := time.Now().Add(2 * patience)
	if err := errors.Join(from.SetDeadline(deadline), to.SetDeadline(deadline)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(from, testkit.Payload(seed, size))
		sent <- errors.Join(err, from.CloseWrite())
	}()
	got, n, err := testkit.Hash(to)
	if err != nil {
		_ = to.Close() // so that the sender ends, too
	}
	if err := errors.Join(err, <-sent); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	}
	if n != size || got != testkit.PayloadHash(seed, size) {
		return fmt.Errorf("%d bytes arrived of %d, or others than were sent", n, size)
	}
	return nil
}

// halfClosed ends near's direction after some bytes, makes sure that far has
// seen the end, and then sends size bytes from far and ends that direction.
func halfClosed(s stream, before, size int64) error {
	if err := transfer(s.near, s.far, 3, before); err != nil {
		return fmt.Errorf("first direction: %w", err)
	}
	if err := transfer(s.far, s.near, 4, size); err != nil {
		return fmt.Errorf("other direction, after the end of the first: %w", err)
	}
	return nil
}

// echoes sends bytes through an echo server and ends behind them.
func echoes(c *net.TCPConn, seed uint64, size int) error {
	want := testkit.PayloadBytes(seed, size)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil {
		return fmt.Errorf("%d of %d bytes back: %w", len(got), size, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d of %d bytes back: %s", len(got), size, whatIsMissing(got, want))
	}
	return nil
}

// whatIsMissing tells where of want the bytes of got are.
func whatIsMissing(got, want []byte) string {
	switch {
	case len(got) == 0:
		return "all of them are missing"
	case bytes.HasPrefix(want, got):
		return "the end is missing"
	case bytes.HasSuffix(want, got):
		return "the beginning is missing"
	default:
		head := 0
		for head < min(len(got), len(want)) && got[head] == want[head] {
			head++
		}
		return fmt.Sprintf("from byte %d on they are others", head)
	}
}

// pingPong waits for each answer before it sends more, from one byte to a few
// frames. The terminator of frames is among the bytes.
func pingPong(c *net.TCPConn) error {
	for size := 1; size <= 64<<10; size *= 4 {
		want := bytes.Repeat([]byte(";\x00"), size)[:size]
		if _, err := c.Write(want); err != nil {
			return err
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(c, got); err != nil {
			return fmt.Errorf("answer of %d bytes: %w", size, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("another answer of %d bytes", size)
		}
	}
	return nil
}

// end is what a socket sees when its other end goes.
type end string

// What a socket can see.
const (
	sawFIN   end = "FIN"
	sawRST   end = "RST"
	sawAlive end = "nothing"
)

// seen reads a connection that has nothing more to say.
func seen(c *net.TCPConn, timeout time.Duration) end {
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	n, err := io.Copy(io.Discard, c)
	var timedOut net.Error
	switch {
	case n > 0:
		return end(fmt.Sprintf("%d bytes", n))
	case err == nil:
		return sawFIN
	case errors.Is(err, syscall.ECONNRESET):
		return sawRST
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return sawAlive
	default:
		return end(err.Error())
	}
}

func expectSeen(t testing.TB, who string, c *net.TCPConn, want end) {
	t.Helper()
	if got := seen(c, patience); got != want {
		t.Errorf("%s saw %s, want %s", who, got, want)
	}
}
