package rtc

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

var _ tunnel.Carrier = (*Channel)(nil)

// pour writes size random bytes in messages of at most chunk, never with more
// than high bytes buffered, and returns their hash.
func pour(t *testing.T, c *Channel, size, chunk, high int, seed uint64) [32]byte {
	t.Helper()
	source := rand.NewChaCha8([32]byte{byte(seed)})
	hash := sha256.New()
	room := make(chan struct{}, 1)
	buf := make([]byte, chunk)
	for size > 0 {
		for c.Buffered() > high-chunk {
			c.NotifyLow(high*7/8, func() { room <- struct{}{} })
			select {
			case <-room:
			case <-time.After(20 * time.Second):
				t.Errorf("no room for 20 s with %d bytes buffered", c.Buffered())
				return [32]byte{}
			}
		}
		if b := c.Buffered(); b > high {
			t.Errorf("%d bytes are buffered", b)
		}
		n := min(size, 1+rand.IntN(chunk))
		_, _ = source.Read(buf[:n])
		hash.Write(buf[:n])
		if err := c.WriteMessage(buf[:n]); err != nil {
			t.Errorf("writing: %v", err)
			return [32]byte{}
		}
		size -= n
	}
	return [32]byte(hash.Sum(nil))
}

func drink(t *testing.T, c *Channel, size int) [32]byte {
	t.Helper()
	hash := sha256.New()
	buf := make([]byte, MaxMessage)
	for size > 0 {
		if err := c.Wait(); err != nil {
			t.Errorf("waiting with %d bytes to come: %v", size, err)
			return [32]byte{}
		}
		n, err := c.ReadMessage(buf)
		if err != nil {
			t.Errorf("reading with %d bytes to come: %v", size, err)
			return [32]byte{}
		}
		hash.Write(buf[:n])
		size -= n
	}
	return [32]byte(hash.Sum(nil))
}

// TestBulk: 10 MB each way at once, byte-exact.
func TestBulk(t *testing.T) {
	checkLeaks(t)
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	const size = 10 << 20
	var sent, got [2][32]byte
	var wg sync.WaitGroup
	wg.Go(func() { sent[0] = pour(t, p.clientChannel, size, 16<<10, 256<<10, 1) })
	wg.Go(func() { sent[1] = pour(t, p.serverChannel, size, 64<<10, 256<<10, 2) })
	wg.Go(func() { got[0] = drink(t, p.serverChannel, size) })
	wg.Go(func() { got[1] = drink(t, p.clientChannel, size) })
	wg.Wait()
	if sent != got {
		t.Error("what was read is not what was written")
	}
}

// TestNotifyLow: nobody who asks for room is forgotten, whatever the mark, and
// while another asks: marks above and below what is buffered, replaced before
// they are due, asked for in the moment of the crossing.
func TestNotifyLow(t *testing.T) {
	checkLeaks(t)
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, MaxMessage)
		for p.serverChannel.Wait() == nil {
			if _, err := p.serverChannel.ReadMessage(buf); err != nil {
				return
			}
		}
	})
	c := p.clientChannel
	message := make([]byte, 4096)
	for round := range 1000 {
		for c.Buffered() < 12<<10 {
			if err := c.WriteMessage(message[:1+rand.IntN(len(message)-1)]); err != nil {
				t.Fatal(err)
			}
		}
		var replaced atomic.Int32
		if round%3 == 0 {
			c.NotifyLow(4096+rand.IntN(16<<10), func() { replaced.Add(1) })
		}
		mark := 4096 + rand.IntN(12<<10)
		if round%100 == 0 {
			mark = 0 // waits for an acknowledgement that the peer may delay
		}
		told := make(chan struct{}, 2)
		c.NotifyLow(mark, func() { told <- struct{}{} })
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatalf("round %d: forgotten at mark %d with %d bytes buffered", round, mark, c.Buffered())
		}
		if b := c.Buffered(); b > mark {
			t.Fatalf("round %d: told at mark %d with %d bytes buffered", round, mark, b)
		}
		if replaced.Load() > 1 || len(told) > 0 {
			t.Fatalf("round %d: told more than once", round)
		}
	}
	called := false
	eventually(t, 10*time.Second, "nothing is buffered", func() bool { return c.Buffered() == 0 })
	c.NotifyLow(0, func() { called = true })
	if !called {
		t.Error("not told at once when already low")
	}
	p.server.Close(framecodec.CodeNormal)
	reader.Wait()
}

// TestChannelClose: a channel is closed once, what was written before arrives,
// the readers at both ends go on, and the peer connection lives.
func TestChannelClose(t *testing.T) {
	checkLeaks(t)
	p := begin(t, testGateway(t, Options{}), testDialer(DialerConfig{}), ChannelSpec{Label: "a"}, ChannelSpec{Label: "b"})
	pick := func(e *end) map[string]*Channel {
		one, two := e.channel(t), e.channel(t)
		return map[string]*Channel{one.Label(): one, two.Label(): two}
	}
	client, server := pick(p.clientEnd), pick(p.serverEnd)
	const size = 200 << 10
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for i := 0; i < size; i += 16 << 10 {
		if err := client["a"].WriteMessage(want[i:min(i+16<<10, size)]); err != nil {
			t.Fatal(err)
		}
	}
	waiting := make(chan error)
	go func() { waiting <- client["a"].Wait() }()
	var once sync.WaitGroup
	for range 4 {
		once.Go(func() {
			if err := client["a"].Close(framecodec.CodeNormal); err != nil {
				t.Error(err)
			}
		})
	}
	once.Wait()
	if err := <-waiting; tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
		t.Errorf("Wait here: %v", err)
	}
	if _, err := client["a"].ReadMessage(make([]byte, 10)); err == nil {
		t.Error("a message was read after Close")
	}
	if err := client["a"].WriteMessage([]byte("late")); err == nil {
		t.Error("a message was written after Close")
	}
	var got []byte
	buf := make([]byte, MaxMessage)
	for {
		if err := server["a"].Wait(); err != nil {
			if tunnel.CodeOf(err) != framecodec.CodeTunnelClosed {
				t.Errorf("Wait there: %v", err)
			}
			break
		}
		n, err := server["a"].ReadMessage(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes arrived before the end", len(got), len(want))
	}
	_ = server["a"].Close(framecodec.CodeNormal)
	eventually(t, 10*time.Second, "both sides forget the channel", func() bool {
		return len(p.client.openChannels()) == 1 && len(p.server.openChannels()) == 1
	})
	write(t, client["b"], "the other channel")
	if got := read(t, server["b"]); got != "the other channel" {
		t.Error(got)
	}
}

// TestReadBehindTheEnd: what the peer sent before it ended the connection, or
// fell silent, is read to the last message, and then the end at once; unless the
// channel was closed here.
func TestReadBehindTheEnd(t *testing.T) {
	checkLeaks(t)
	g := testGateway(t, Options{Timeouts: fast})
	const messages = 300
	message := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), i*37%4096) }
	for _, how := range []string{"client closes", "gateway closes", "silence", "closed here"} {
		c := newCable(t, g.socket.AddrPort())
		p := connectThrough(t, g, testDialer(DialerConfig{Timeouts: fast}), c)
		from, to, sender, reader := p.clientChannel, p.serverChannel, p.client, p.server
		if how == "gateway closes" {
			from, to, sender, reader = to, from, reader, sender
		}
		for i := range messages {
			write(t, from, message(i))
		}
		want := framecodec.CodeTunnelClosed
		if how == "silence" {
			eventually(t, 5*time.Second, "everything has arrived", func() bool { return from.Buffered() == 0 })
			c.cut.Store(true)
			want = framecodec.CodeTunnelLost
		} else {
			sender.Close(framecodec.CodeNormal)
		}
		select {
		case <-reader.released: // so that nobody has read before
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the other side does not end", how)
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			buf := make([]byte, MaxMessage)
			count := messages
			if how == "closed here" {
				_ = to.Close(framecodec.CodeNormal)
				count = 0
			}
			for i := range count {
				if err := to.Wait(); err != nil {
					t.Errorf("%s: waiting for message %d: %v", how, i, err)
					return
				}
				if n, err := to.ReadMessage(buf); err != nil || string(buf[:n]) != message(i) {
					t.Errorf("%s: message %d of %d bytes: %v", how, i, n, err)
					return
				}
			}
			if err := to.Wait(); tunnel.CodeOf(err) != want {
				t.Errorf("%s: behind the last message: %v, want %v", how, err, want)
			}
			if _, err := to.ReadMessage(buf); tunnel.CodeOf(err) != want {
				t.Errorf("%s: reading behind the last message: %v, want %v", how, err, want)
			}
		}()
		select {
		case <-read:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the reader hangs", how)
		}
		sender.Close(framecodec.CodeNormal)
	}
}

// TestWakeReader: who waits for a message goes on when the channel is closed
// here, and when the peer has ended, though neither the other side nor pion has
// done anything about it yet.
func TestWakeReader(t *testing.T) {
	checkLeaks(t)
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	p := connect(t, g, d)
	wait := func(c *Channel) <-chan error {
		waited := make(chan error, 1)
		go func() { waited <- c.Wait() }()
		eventually(t, 5*time.Second, "the reader waits", func() bool { return strings.Contains(stacks(), "(*Stream).ReadSCTP(") })
		return waited
	}
	woken := func(waited <-chan error, want framecodec.Code) {
		t.Helper()
		select {
		case err := <-waited:
			if tunnel.CodeOf(err) != want {
				t.Errorf("Wait: %v, want %v", err, want)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("the reader waits on after %v", want)
		}
	}
	waited := wait(p.clientChannel)
	_ = p.clientChannel.Close(framecodec.CodeNormal) // the gateway does not read, so it does not answer the reset
	woken(waited, framecodec.CodeTunnelClosed)

	p = connect(t, g, d)
	waited = wait(p.serverChannel)
	p.server.mu.Lock()
	p.server.err = &tunnel.Error{Code: framecodec.CodeTunnelLost} // as in end
	p.server.mu.Unlock()
	p.serverChannel.transportEnded() // as in finish
	woken(waited, framecodec.CodeTunnelLost)
	p.server.mu.Lock()
	p.server.err = nil
	p.server.mu.Unlock()
}

// TestSmallBuffer: a message longer than the buffer is an error and is kept.
func TestSmallBuffer(t *testing.T) {
	checkLeaks(t)
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	for _, message := range []string{"0123456789", "0", "0123", "01234"} {
		write(t, p.clientChannel, message)
		if err := p.serverChannel.Wait(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.serverChannel.ReadMessage(nil); !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("reading %q into nothing: %v", message, err)
		}
		if got := read(t, p.serverChannel); got != message {
			t.Errorf("read %q", got)
		}
	}
}

// TestTooLarge: nobody sends more than was announced, and a peer that does loses
// its channel's reader with protocol_error.
func TestTooLarge(t *testing.T) {
	checkLeaks(t)
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	if err := p.clientChannel.WriteMessage(make([]byte, MaxMessage+1)); err == nil {
		t.Error("a message larger than announced was taken")
	}
	// Past WriteMessage and pion's own check.
	large := connectAnnouncing(t, "a=max-message-size:65536", "a=max-message-size:200000")
	if _, err := large.clientChannel.raw.Write(make([]byte, MaxMessage+1)); err != nil {
		t.Fatal(err)
	}
	if err := large.serverChannel.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := large.serverChannel.ReadMessage(make([]byte, MaxMessage)); tunnel.CodeOf(err) != framecodec.CodeProtocolError {
		t.Errorf("a message larger than announced: %v", err)
	}
}

// connectAnnouncing has the client read another answer than the gateway gave.
func connectAnnouncing(t *testing.T, old, new string) *pair {
	t.Helper()
	g, d := testGateway(t, Options{}), testDialer(DialerConfig{})
	p := &pair{clientEnd: newEnd(), serverEnd: newEnd()}
	var offer, answer string
	var err error
	if p.client, offer, err = d.Offer(t.Context(), []ChannelSpec{{}}, nil, p.clientEnd.handler()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close(framecodec.CodeNormal) })
	if p.server, answer, err = g.Answer(t.Context(), offer, p.serverEnd.handler()); err != nil {
		t.Fatal(err)
	}
	a, err := parseAnswer(answer)
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Replace([]byte(a.text()), []byte(old), []byte(new), 1)
	if bytes.Equal(text, []byte(a.text())) {
		t.Fatalf("the answer does not say %s", old)
	}
	if err := p.client.acceptText(a, string(text)); err != nil {
		t.Fatal(err)
	}
	p.clientChannel, p.serverChannel = p.clientEnd.channel(t), p.serverEnd.channel(t)
	return p
}

// TestMaxMessage: what is sent at most follows what the peer announced.
func TestMaxMessage(t *testing.T) {
	for announced, want := range map[int]int{0: 65535, 1024: 1024, 65535: 65535, MaxMessage: MaxMessage} {
		if got := (description{maxMessage: announced}).maxSend(); got != want {
			t.Errorf("announced %d: %d, want %d", announced, got, want)
		}
	}
}
