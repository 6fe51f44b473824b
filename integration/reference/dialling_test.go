package reference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

func TestDiallingWheelEchoes(t *testing.T) {
	d := startDialling(t, toTarget)
	serveEcho(t, d.net, targetPort)
	c := dial(t, d.net, d.entry)
	check(t, pingPong(c), echoes(c, 1, 300_000))
	becomes(t, "results", opened, d.client, counts{"ok": 1})
	becomes(t, "ends", ended, d.client, counts{"normal": 1})
	onlyTunnel(t, d.client)
}

// A target that speaks first and ends at once: nothing is lost.
func TestDiallingWheelCarriesAShortWord(t *testing.T) {
	d := startDialling(t, toTarget)
	serveWord(t, d.net, targetPort, "word")
	for range 5 {
		word, err := io.ReadAll(dial(t, d.net, d.entry))
		if err != nil || string(word) != "word" {
			t.Errorf("%q, %v", word, err)
		}
		d.renew(t)
	}
}

func TestDiallingWheelCarries50MBEachWay(t *testing.T) {
	d := startDialling(t, toTarget)
	g := startTarget(t, d.net, targetPort)
	up := g.open(t, d.net, d.entry)
	check(t, transfer(up.near, up.far, 1, bulk))
	down := g.open(t, d.net, d.entry)
	check(t, transfer(down.far, down.near, 2, bulk))
}

// The reference tells of the end of its target once in the life of a tunnel (it
// keeps that as the reason of the whole channel, and stays silent when there is
// one already), so each of these has a new one.
func TestDiallingWheelHalfClose(t *testing.T) {
	d := startDialling(t, toTarget)
	g := startTarget(t, d.net, targetPort)
	t.Run("the client ends first", func(t *testing.T) {
		check(t, halfClosed(g.open(t, d.net, d.entry), 1_000_000, half))
	})
	becomes(t, "ends", ended, d.client, counts{"normal": 1})
	d.renew(t)
	t.Run("the target ends first", func(t *testing.T) {
		s := g.open(t, d.net, d.entry)
		check(t, halfClosed(stream{near: s.far, far: s.near}, 1_000_000, half))
	})
	becomes(t, "ends", ended, d.client, counts{"normal": 2})
}

// A later end of a target in the same tunnel: every byte arrives, the end does
// not. When the client's program has gone, so has its stream: its system answers
// our keep-alives with a reset once tcp_fin_timeout is over (60 s, here 1 s).
func TestDiallingWheelManyConnections(t *testing.T) {
	t.Parallel()
	const serial, parallel = 100, 50
	d := startDialling(t, toTarget)
	check(t, d.net.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_fin_timeout", []byte("1"), 0)
	}))
	serveEcho(t, d.net, targetPort)
	check(t, echoes(dial(t, d.net, d.entry), 0, 20_000)) // the one end that is told
	becomes(t, "ends", ended, d.client, counts{"normal": 1})
	before := must[held](t)(holding(d.client))
	for i := range serial {
		if err := d.talk(uint64(i)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	results := make([]error, parallel)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = d.talk(uint64(serial + i)) })
	}
	wg.Wait()
	check(t, results...)
	becomes(t, "ends", ended, d.client, counts{"normal": 1, "cancelled": serial + parallel})
	backTo(t, d.client, before, patience)
	if made := d.offers.made(); made != 1 {
		t.Errorf("%d tunnels for all of them", made)
	}
}

// talk makes a connection to an echo server, sends bytes through it, waits for
// all of them and closes.
func (d *dialling) talk(seed uint64) error {
	c, err := tryDial(d.net, d.entry)
	if err != nil {
		return err
	}
	defer c.Close()
	want := testkit.PayloadBytes(seed, 20_000)
	if _, err := c.Write(want); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("%d of %d bytes back, %w", n, len(want), err)
	}
	return nil
}

// The reference says ConnectionFailed whatever went wrong with its target.
func TestDiallingWheelRefuses(t *testing.T) {
	d := startDialling(t, toTarget)
	expectSeen(t, "the client", dial(t, d.net, d.entry), sawRST)
	becomes(t, "results", opened, d.client, counts{"unreachable": 1})

	serveEcho(t, d.net, targetPort) // the tunnel has not suffered
	check(t, echoes(dial(t, d.net, d.entry), 1, 1000))
	becomes(t, "results", opened, d.client, counts{"unreachable": 1, "ok": 1})
	if made := d.offers.made(); made != 1 {
		t.Errorf("%d tunnels for both", made)
	}
}

// A client that resets its connection: the reference has no reset for its
// target, which sees an ordinary end.
func TestDiallingWheelIsToldOfAReset(t *testing.T) {
	d := startDialling(t, toTarget)
	s := startTarget(t, d.net, targetPort).open(t, d.net, d.entry)
	check(t, reset(s.near))
	expectSeen(t, "the target", s.far, sawFIN)
	becomes(t, "ends", ended, d.client, counts{"cancelled": 1})
	onlyTunnel(t, d.client)
}

// In SOCKS5 mode the wheel dials what the client names, by its own rules. What
// it refuses by port it does not answer: our own time-out ends that.
func TestDiallingWheelSOCKS5(t *testing.T) {
	d := startDialling(t, testkit.TubeSettings{AllowedHosts: []string{"127.0.0.1"}})
	serveEcho(t, d.net, targetPort)
	entry := loopback(socksPort)
	c := dial(t, d.net, entry)
	check(t, askSOCKS(c, "127.0.0.1", targetPort), echoes(c, 1, 300_000))
	for _, r := range []struct {
		host  string
		port  int
		reply byte
	}{
		{"127.0.0.1", targetPort + 1, 4}, // refused
		{"10.66.0.1", targetPort, 4},     // not allowed
	} {
		c := dial(t, d.net, entry)
		var reply socksError
		if err := askSOCKS(c, r.host, r.port); !errors.As(err, &reply) || byte(reply) != r.reply {
			t.Errorf("%s: %v, want SOCKS reply %d", r.host, err, r.reply)
		}
	}
	becomes(t, "results", opened, d.client, counts{"ok": 1, "unreachable": 2})
}

// The reference ends its tube: the client's connections end, and the next one
// has a new tunnel.
func TestDiallingWheelClosesItsTube(t *testing.T) {
	d := startDialling(t, toTarget)
	g := startTarget(t, d.net, targetPort)
	s := g.open(t, d.net, d.entry)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, d.offers.closeTube(ctx))
	expectSeen(t, "the client", s.near, sawRST)
	d.empty(t, 10*time.Second)
	next := g.open(t, d.net, d.entry)
	check(t, transfer(next.near, next.far, 1, 1000))
}

// The reference is killed: the client's connections end within 25 s. The
// reference itself would leave them open for ever.
func TestDiallingWheelIsKilled(t *testing.T) {
	t.Parallel()
	d := startDialling(t, toTarget)
	g := startTarget(t, d.net, targetPort)
	idle, busy := g.open(t, d.net, d.entry), g.open(t, d.net, d.entry)
	check(t, busy.near.SetDeadline(time.Now().Add(2*patience)))
	stuffed := make(chan error, 1)
	go func() {
		_, err := io.Copy(busy.near, testkit.Payload(1, 1<<40)) // until it is cut
		stuffed <- err
	}()
	_, err := io.CopyN(io.Discard, busy.far, 1_000_000)
	check(t, err)
	before := time.Now()
	d.wheel.Kill()
	expectSeen(t, "the idle client", idle.near, sawRST)
	if err := <-stuffed; err == nil {
		t.Error("the busy stream was not cut")
	}
	d.empty(t, 25*time.Second-time.Since(before))
	t.Logf("released after %v", time.Since(before).Round(100*time.Millisecond))
	becomes(t, "ends", ended, d.client, counts{"tunnel_lost": 2})
}

// renew ends the client's tunnel; the next stream makes a new one, with a new
// tube of the same wheel.
func (d *dialling) renew(t testing.TB) {
	t.Helper()
	check(t, remove(d.client, "/webrtc_tunnel/tunnels/"+onlyTunnel(t, d.client).ID))
	d.empty(t, patience)
}

// empty waits until the client has no tunnel.
func (d *dialling) empty(t testing.TB, timeout time.Duration) {
	t.Helper()
	testkit.Eventually(t, timeout, func() error {
		list, err := tunnels(d.client)
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("tunnels: %+v", list)
		}
		return err
	})
}
