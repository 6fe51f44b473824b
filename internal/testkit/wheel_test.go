package testkit

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// tubes connects two wheels and returns the listening tube.
func tubes(t *testing.T, ctx context.Context, n *Namespace, listen, dial TubeSettings) (*Wheel, *Tube) {
	t.Helper()
	near, far := StartWheel(t, n), StartWheel(t, n)
	tube, offer, err := near.Listen(ctx, listen)
	if err != nil {
		t.Fatal(err)
	}
	other, answer, err := far.Dial(ctx, dial, offer)
	if err != nil {
		t.Fatal(err)
	}
	if err := tube.Accept(ctx, answer); err != nil {
		t.Fatal(err)
	}
	for _, end := range []*Tube{tube, other} {
		if err := end.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return near, tube
}

func TestWheelToWheelEchoes(t *testing.T) {
	n := NewNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	target := must[net.Listener](t)(n.Listen("tcp", "127.0.0.1:0"))
	defer target.Close()
	go echoOnce(target)
	near, tube := tubes(t, ctx, n, TubeSettings{Listen: "127.0.0.1:0"}, TubeSettings{Target: target.Addr().String()})

	c := must[net.Conn](t)(n.DialContext(ctx, "tcp", tube.ListenAddr))
	defer c.Close()
	want := PayloadBytes(3, 300_000)
	go func() {
		if _, err := c.Write(want); err != nil {
			t.Error(err)
		}
	}()
	got := make([]byte, len(want))
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if read, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes back: %v", read, len(want), err)
	}
	if m, err := MemoryOf(near.PID()); err != nil || m.RSS < 1<<20 {
		t.Errorf("memory of the wheel: %+v, %v", m, err)
	}
	if err := tube.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestWheelSpeaksSOCKS5(t *testing.T) {
	n := NewNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	target := must[net.Listener](t)(n.Listen("tcp", "127.0.0.1:0"))
	defer target.Close()
	go echoOnce(target)
	address := target.Addr().(*net.TCPAddr)
	_, tube := tubes(t, ctx, n, TubeSettings{Listen: "127.0.0.1:0", Socks: true},
		TubeSettings{AllowedHosts: []string{"127.0.0.1"}})

	c := must[net.Conn](t)(n.DialContext(ctx, "tcp", tube.ListenAddr))
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	exchange := func(say, want []byte) {
		t.Helper()
		if _, err := c.Write(say); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("said %x: got %x, %v; want %x", say, got, err, want)
		}
	}
	exchange([]byte{5, 1, 0}, []byte{5, 0})
	exchange([]byte{5, 1, 0, 1, 127, 0, 0, 1, byte(address.Port >> 8), byte(address.Port)},
		[]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	exchange([]byte("hello"), []byte("hello"))
}

func TestWheelReportsItsErrors(t *testing.T) {
	w := StartWheel(t, NewNamespace(t))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, _, err := w.Dial(ctx, TubeSettings{Target: "127.0.0.1:1"}, "not SDP"); err == nil {
		t.Error("an offer that is not SDP was answered")
	}
	w.Kill()
	if _, _, err := w.Listen(ctx, TubeSettings{Listen: "127.0.0.1:0"}); err == nil {
		t.Error("a killed wheel answered")
	}
}
