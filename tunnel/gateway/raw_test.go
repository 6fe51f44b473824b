package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// rawOffice is an office with one target under the test's control.
type rawOffice struct {
	*office
	target net.Conn // the target's end of the next connection
	ends   chan RawInfo
}

func openRaw(t *testing.T, options ...option) *rawOffice {
	t.Helper()
	ours, theirs := connPair(t)
	r := &rawOffice{target: theirs, ends: make(chan RawInfo, 16)}
	configure := func(e *ExitConfig, _ *tunnel.Config) {
		e.Connect = func(context.Context, policy.Address, policy.Control) (net.Conn, error) { return ours, nil }
		e.OnRaw = func(raw *Raw, ended bool) {
			if ended {
				r.ends <- raw.Info()
			}
		}
	}
	r.office = open(t, rules("tcp/10.0.0.0/8:22"), append([]option{configure}, options...)...)
	return r
}

// connPair is a TCP connection's two ends.
func connPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// start opens a raw channel and returns the page's end.
func (r *rawOffice) start(target string) *wire {
	page, gateway := newWires()
	r.exit.Raw(gateway, target)
	return page
}

func (r *rawOffice) end(t *testing.T) RawInfo {
	t.Helper()
	select {
	case info := <-r.ends:
		return info
	case <-time.After(10 * time.Second):
		t.Fatal("the channel does not end")
		return RawInfo{}
	}
}

// read returns the next n bytes that reach the page.
func (w *wire) read(t *testing.T, n int) []byte {
	t.Helper()
	var got []byte
	buf := make([]byte, 65536)
	for len(got) < n {
		if err := w.Wait(); err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(got), n, err)
		}
		k, err := w.ReadMessage(buf)
		if err != nil {
			t.Fatal(err)
		}
		if k > rawChunk {
			t.Fatalf("a message of %d bytes", k)
		}
		got = append(got, buf[:k]...)
	}
	return got
}

func TestRawBothWays(t *testing.T) {
	r := openRaw(t)
	page := r.start("echo")
	there, back := make([]byte, 3<<20), make([]byte, 3<<20)
	_, _ = rand.Read(there) // never fails
	_, _ = rand.Read(back)
	var wg sync.WaitGroup
	wg.Go(func() {
		for part := range slices.Chunk(there, 60000) {
			if err := page.WriteMessage(part); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		if _, err := r.target.Write(back); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		got := make([]byte, len(there))
		if _, err := io.ReadFull(r.target, got); err != nil || sha256.Sum256(got) != sha256.Sum256(there) {
			t.Errorf("towards the target: %v", err)
		}
	})
	if got := page.read(t, len(back)); !bytes.Equal(got, back) {
		t.Error("towards the page: other bytes")
	}
	wg.Wait()
	if page.peer.most > rawHigh+rawChunk {
		t.Errorf("%d bytes were buffered in the carrier", page.peer.most)
	}
	_ = page.Close(framecodec.CodeNormal)
	if _, err := r.target.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the target sees %v at the page's end", err)
	}
	_ = r.target.Close()
	info := r.end(t)
	if info.Code != "normal" || !info.Opened || info.Target != "echo" || info.BytesIn != 3<<20 || info.BytesOut != 3<<20 {
		t.Errorf("%+v", info)
	}
}

// Bytes towards the page wait until it has spoken, be it an empty message, or
// for 250 ms.
func TestRawHoldsBytes(t *testing.T) {
	if held := rawHeldFor(t, false); held < rawHold {
		t.Errorf("a silent page got bytes after %v", held)
	}
	held := rawHold
	for try := 0; try < 5 && held >= rawHold; try++ { // a busy machine may be slow once
		held = rawHeldFor(t, true)
	}
	if held >= rawHold {
		t.Errorf("a page that has spoken got bytes after %v", held)
	}
}

func rawHeldFor(t *testing.T, speaks bool) time.Duration {
	t.Helper()
	r := openRaw(t)
	start := time.Now()
	page := r.start("echo")
	if _, err := r.target.Write([]byte("RFB")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the target is connected", func() bool {
		raws := r.exit.Raws()
		return len(raws) == 1 && raws[0].Info().Opened
	})
	if speaks {
		if err := page.WriteMessage(nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := page.read(t, 3); string(got) != "RFB" {
		t.Errorf("got %q", got)
	}
	return time.Since(start)
}

// The end of the target closes the channel when the page has everything.
func TestRawTargetEnds(t *testing.T) {
	r := openRaw(t)
	page := r.start("echo")
	if _, err := r.target.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	_ = r.target.Close()
	if err := page.Wait(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is sent", func() bool { return page.peer.Buffered() == 10 })
	if closed, _ := page.end(); closed {
		t.Error("closed before the page has read")
	}
	if got := page.read(t, 10); string(got) != "last words" {
		t.Errorf("got %q", got)
	}
	if info := r.end(t); info.Code != "normal" {
		t.Errorf("%+v", info)
	}
	if closed, code := page.end(); !closed || code != framecodec.CodeNormal {
		t.Errorf("closed %v with %v", closed, code)
	}
}

func TestRawTargetResets(t *testing.T) {
	r := openRaw(t)
	page := r.start("echo")
	if err := page.WriteMessage([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r.target, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.target.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = r.target.Close()
	if info := r.end(t); info.Code != "target_closed" {
		t.Errorf("%+v", info)
	}
	if closed, code := page.end(); !closed || code != framecodec.CodeTargetClosed {
		t.Errorf("closed %v with %v", closed, code)
	}
}

// A page that goes while its last bytes are on the way does not lose them.
func TestRawPageEnds(t *testing.T) {
	r := openRaw(t)
	page := r.start("echo")
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for part := range slices.Chunk(data, 65536) {
		if err := page.WriteMessage(part); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.target.Write([]byte("unread by the page")); err != nil {
		t.Fatal(err)
	}
	_ = page.Close(framecodec.CodeNormal)
	got, err := io.ReadAll(r.target)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
	}
	_ = r.target.Close()
	if info := r.end(t); info.Code != "normal" {
		t.Errorf("%+v", info)
	}
}

// A target that takes nothing ends the channel after the write time-out; a slow
// one does not.
func TestRawStalledTarget(t *testing.T) {
	r := openRaw(t, func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Write: 200 * time.Millisecond}) })
	page := r.start("echo")
	message := make([]byte, 65536)
	for range 200 { // more than the system's buffers take
		if err := page.WriteMessage(message); err != nil {
			t.Fatal(err)
		}
	}
	if info := r.end(t); info.Code != "slow_consumer" {
		t.Errorf("%+v", info)
	}
}

func TestRawSlowTarget(t *testing.T) {
	slow := &slowConn{}
	r := openRaw(t, func(e *ExitConfig, _ *tunnel.Config) { e.Timeouts = fixed(Timeouts{Write: time.Millisecond}) },
		func(e *ExitConfig, _ *tunnel.Config) {
			e.Connect = func(ctx context.Context, a policy.Address, c policy.Control) (net.Conn, error) { return slow, nil }
		})
	slow.Conn, _ = net.Pipe()
	page := r.start("echo")
	if err := page.WriteMessage(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is written", func() bool { return slow.taken() == 1000 })
	_ = page.Close(framecodec.CodeNormal)
	if info := r.end(t); info.Code == "slow_consumer" {
		t.Errorf("%+v", info)
	}
}

// slowConn takes ten bytes within each deadline.
type slowConn struct {
	net.Conn
	mu sync.Mutex
	n  int
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), 10)
	c.n += n
	if n < len(p) {
		return n, &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
	}
	return n, nil
}

func (c *slowConn) taken() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// A refusal closes the channel, and its code is kept for the status.
func TestRawRefusals(t *testing.T) {
	tests := []struct {
		name, target string
		want         tunnel.Code
		options      []option
	}{
		{"unknown", "none", framecodec.CodeUnknownTarget, nil},
		{"no name", "", framecodec.CodeUnknownTarget, nil},
		{"an address", "tcp/10.0.0.5:22", framecodec.CodeUnknownTarget, nil},
		{"not for us", "alices", framecodec.CodeNotAllowed, nil},
		{"refused", "echo", framecodec.CodeRefused, []option{func(e *ExitConfig, _ *tunnel.Config) {
			e.Connect = func(context.Context, policy.Address, policy.Control) (net.Conn, error) { return nil, refusedError() }
		}}},
		{"black hole", "echo", framecodec.CodeTimeout, []option{func(e *ExitConfig, _ *tunnel.Config) {
			e.Timeouts = fixed(Timeouts{Dial: 50 * time.Millisecond})
			e.Connect = func(ctx context.Context, _ policy.Address, _ policy.Control) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}}},
		{"overloaded", "echo", framecodec.CodeOverloaded, []option{func(e *ExitConfig, _ *tunnel.Config) { e.Pool.cfg.Total = 0 }}},
		{"too many", "echo", framecodec.CodeTooManyStreams, []option{func(e *ExitConfig, _ *tunnel.Config) {
			e.AdmitRaw = func() (func(), error) { return nil, &tunnel.Error{Code: framecodec.CodeTooManyStreams} }
		}}},
		{"no memory", "echo", framecodec.CodeOutOfMemoryBudget, []option{func(e *ExitConfig, _ *tunnel.Config) {
			e.Budget = tunnel.NewBudget(nil, rawMemory-1)
		}}},
		{"panic", "echo", framecodec.CodeInternal, []option{func(e *ExitConfig, _ *tunnel.Config) {
			e.Connect = func(context.Context, policy.Address, policy.Control) (net.Conn, error) { panic("a test") }
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := openRaw(t, tt.options...)
			cfg := rules()
			cfg.Targets = append(cfg.Targets, policy.NamedTarget{Name: "alices", Addresses: []string{"tcp/10.0.0.8:22"}, Users: []string{"alice"}})
			r.policy.Store(mustPolicy(t, cfg))
			page := r.start(tt.target)
			info := r.end(t)
			closed, code := page.end()
			if !closed || code != tt.want || info.Code != tt.want.String() || info.Opened {
				t.Errorf("closed %v with %v, %+v", closed, code, info)
			}
			if infos := r.exit.RawInfos(); len(infos) != 1 || infos[0].Code != tt.want.String() {
				t.Errorf("the status shows %+v", infos)
			}
		})
	}
}

// What is counted for a raw channel is given back once.
func TestRawCounts(t *testing.T) {
	budget := tunnel.NewBudget(nil, 10*rawMemory)
	count := 0
	var mu sync.Mutex
	add := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		count += n
	}
	r := openRaw(t, func(e *ExitConfig, _ *tunnel.Config) {
		e.Budget = budget
		e.AdmitRaw = func() (func(), error) {
			add(1)
			return func() { add(-1) }, nil
		}
	})
	page := r.start("echo")
	if budget.Used() != rawMemory || count != 1 {
		t.Errorf("%d bytes, %d channels", budget.Used(), count)
	}
	_ = page.Close(framecodec.CodeNormal)
	_ = r.target.Close()
	r.end(t)
	if budget.Used() != 0 || count != 0 {
		t.Errorf("%d bytes, %d channels are left", budget.Used(), count)
	}
}

// Who closes the page while it is dialled, ends the dial.
func TestRawPageEndsWhileDialling(t *testing.T) {
	r := openRaw(t, func(e *ExitConfig, _ *tunnel.Config) {
		e.Timeouts = fixed(Timeouts{Dial: time.Minute})
		e.Connect = func(ctx context.Context, _ policy.Address, _ policy.Control) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	page := r.start("echo")
	eventually(t, "it dials", func() bool { return r.pool.Opens() == 1 })
	_ = page.Close(framecodec.CodeNormal)
	if info := r.end(t); info.Code != "cancelled" {
		t.Errorf("%+v", info)
	}
}

func TestRawRecheckAndClose(t *testing.T) {
	r := openRaw(t)
	page := r.start("echo")
	if err := page.WriteMessage([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r.target, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := r.exit.Recheck(r.policy.Load()); n != 0 {
		t.Errorf("an equal policy ended %d", n)
	}
	cfg := rules()
	cfg.Targets = cfg.Targets[1:]
	cfg.DefaultTarget = ""
	if n := r.exit.Recheck(mustPolicy(t, cfg)); n != 1 {
		t.Errorf("ended %d", n)
	}
	if info := r.end(t); info.Code != "policy_changed" {
		t.Errorf("%+v", info)
	}
	if _, err := r.target.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the target sees %v, want a reset", err)
	}
	r.exit.Close()
	page = r.start("other")
	if info := r.end(t); info.Code != "tunnel_closed" {
		t.Errorf("after Close: %+v", info)
	}
	if closed, code := page.end(); !closed || code != framecodec.CodeTunnelClosed {
		t.Errorf("closed %v with %v", closed, code)
	}
}
