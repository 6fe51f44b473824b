package acceptance

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"
)

// TestMustShow4HalfClose ends one direction of a stream and then sends 20 MB in
// the other. The reference system loses the end there.
func TestMustShow4HalfClose(t *testing.T) {
	const size = 20_000_000
	for _, dialect := range []int{2, 1} {
		t.Run(fmt.Sprintf("dialect %d", dialect), func(t *testing.T) {
			p := startPair(t, setup{
				endpoint: defaultEndpoint + "\t\tdialects 1 2\n",
				remote:   fmt.Sprintf("\t\t\tdialect %d\n", dialect),
			})
			g := startTarget(t, p.net)
			s := p.mustOpen(g, entryPort) // the tunnel is there from now on
			if i := tunnelsOf(t, p.gateway); len(i) != 1 {
				t.Fatalf("tunnels: %+v", i)
			}
			s.close()
			for _, tc := range []struct {
				name   string
				before int // bytes that go the other way before it ends
			}{{"at once", 0}, {"after as much", size}} {
				t.Run(tc.name, func(t *testing.T) {
					ends := p.mustOpen(g, entryPort)
					check(t, halfClosed(ends, tc.before, size))
					turned := p.mustOpen(g, entryPort)
					check(t, halfClosed(stream{near: turned.far, far: turned.near}, tc.before, size))
				})
			}
		})
	}
}

// halfClosed ends near's direction after some bytes, makes sure that far has
// seen the end, and then sends size bytes from far and ends that direction.
func halfClosed(s stream, before, size int) error {
	deadline := time.Now().Add(2 * patience)
	if err := errors.Join(s.near.SetDeadline(deadline), s.far.SetDeadline(deadline)); err != nil {
		return err
	}
	if err := transfer(s.near, s.far, 3, before); err != nil {
		return fmt.Errorf("first direction: %w", err)
	}
	if err := transfer(s.far, s.near, 4, size); err != nil {
		return fmt.Errorf("other direction, after the end of the first: %w", err)
	}
	// Both are over now: what is left of the sockets is nothing but their ends.
	if n, err := s.near.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("behind the end: %d bytes, %w", n, err)
	}
	return nil
}
