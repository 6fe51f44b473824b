package rtc

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/sctp"
	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// lingerTime bounds how long a closed channel waits for the peer to acknowledge
// what was written before.
const lingerTime = 5 * time.Second

// ackSize is the length of DATA_CHANNEL_ACK: one byte (RFC 8832 section 5.2),
// and four as pion sends it.
const ackSize = 4

// Channel is an open data channel. It is a tunnel.Carrier: one goroutine calls
// Wait and ReadMessage, any may call the rest. Messages that are written are
// binary; of messages that are read text and binary are not told apart.
type Channel struct {
	peer    *Peer
	raw     *datachannel.DataChannel
	id      uint16
	label   string
	proto   string
	ordered bool
	keeps   bool // reliable
	max     int

	// tiny is what Wait reads with, see there; the reader's goroutine only.
	tiny    [ackSize]byte
	pending int // a message of that many bytes is in tiny; -1: none

	mu      sync.Mutex
	mark    int
	low     func() // owed to the last NotifyLow, nil when it was given
	closed  bool   // nothing is sent any more: the channel or its peer has ended
	here    bool   // by Close: what was not read is of no interest
	code    framecodec.Code
	drained bool
	empty   chan struct{} // closed when closed and nothing is unacknowledged
}

func newChannel(p *Peer, dc *webrtc.DataChannel, raw *datachannel.DataChannel) *Channel {
	c := &Channel{
		peer: p, raw: raw, label: dc.Label(), proto: dc.Protocol(), ordered: dc.Ordered(),
		keeps: dc.MaxRetransmits() == nil && dc.MaxPacketLifeTime() == nil, max: p.maxSend(), pending: -1,
		empty: make(chan struct{}),
	}
	if id := dc.ID(); id != nil {
		c.id = *id
	}
	raw.OnBufferedAmountLow(c.crossed)
	return c
}

// Label returns the channel's label, of at most MaxName bytes.
func (c *Channel) Label() string { return c.label }

// Protocol returns the channel's protocol (RFC 8832 section 8.2.2), of at most
// MaxName bytes.
func (c *Channel) Protocol() string { return c.proto }

// Ordered reports whether messages arrive in the order of sending.
func (c *Channel) Ordered() bool { return c.ordered }

// Reliable reports whether every message arrives.
func (c *Channel) Reliable() bool { return c.keeps }

// ID returns the SCTP stream of the channel.
func (c *Channel) ID() uint16 { return c.id }

// Peer returns the peer connection of the channel.
func (c *Channel) Peer() *Peer { return c.peer }

// MaxMessage returns the largest message that WriteMessage takes, in bytes.
func (c *Channel) MaxMessage() int { return c.max }

// Wait implements tunnel.Carrier. It reads with a few bytes of room: a message
// that is longer stays where it is (pion reports a short buffer), and the
// message that acknowledges the channel's opening, which is not ours, fits and
// is consumed on the way. A message that short is kept for ReadMessage.
//
// What has arrived can be read until Close, also when the peer has ended since:
// its last message may say why. That is at most what SCTP's receive window holds,
// and pion gives it before the error.
func (c *Channel) Wait() error {
	if err := c.closedHere(); err != nil {
		return err
	}
	if c.pending >= 0 {
		return nil
	}
	n, err := c.raw.Read(c.tiny[:])
	switch {
	case errors.Is(err, io.ErrShortBuffer):
		return c.closedHere()
	case err != nil:
		return c.ended(err)
	}
	c.pending = n
	return c.closedHere()
}

// ReadMessage implements tunnel.Carrier. A message that does not fit into p is a
// protocol error if p has MaxMessage bytes, since that is what was announced;
// the channel should then be closed with CodeProtocolError.
func (c *Channel) ReadMessage(p []byte) (int, error) {
	if err := c.closedHere(); err != nil {
		return 0, err
	}
	if n := c.pending; n >= 0 {
		if n > len(p) {
			return 0, io.ErrShortBuffer
		}
		c.pending = -1
		return copy(p, c.tiny[:n]), nil
	}
	n, err := c.raw.Read(p)
	switch {
	case errors.Is(err, io.ErrShortBuffer) && len(p) >= MaxMessage:
		return 0, tunnel.Errorf(framecodec.CodeProtocolError, "a message is larger than the announced %d bytes", MaxMessage)
	case errors.Is(err, io.ErrShortBuffer):
		return 0, io.ErrShortBuffer
	case err != nil:
		return 0, c.ended(err)
	}
	theFloor.move(n)
	return n, nil
}

// WriteMessage implements tunnel.Carrier.
func (c *Channel) WriteMessage(p []byte) error {
	if len(p) > c.max {
		return tunnel.Errorf(framecodec.CodeInternal, "a message of %d bytes is larger than the peer takes (%d)", len(p), c.max)
	}
	if err := c.ended(nil); err != nil {
		return err
	}
	if _, err := c.raw.Write(p); err != nil {
		return c.ended(err)
	}
	theFloor.move(len(p))
	return nil
}

// Buffered implements tunnel.Carrier. It counts this channel only.
func (c *Channel) Buffered() int { return int(c.raw.BufferedAmount()) }

// NotifyLow implements tunnel.Carrier. When the channel ends, f is called too,
// so that nobody waits for room that will never come.
func (c *Channel) NotifyLow(mark int, f func()) {
	c.mu.Lock()
	c.mark, c.low = mark, f
	if !c.closed {
		c.raw.SetBufferedAmountLowThreshold(uint64(max(mark, 0)))
	}
	c.mu.Unlock()
	// pion reports only crossings of the threshold: those before this line are
	// seen here, those after it are reported.
	c.crossed()
}

// crossed gives what is owed if it is due. It runs on pion's SCTP read loop, in
// NotifyLow and at the end.
func (c *Channel) crossed() {
	c.mu.Lock()
	buffered := c.Buffered()
	if c.closed && buffered == 0 && !c.drained {
		c.drained = true
		close(c.empty)
	}
	f := c.low
	if f == nil || !c.closed && buffered > c.mark {
		c.mu.Unlock()
		return
	}
	c.low = nil
	c.mu.Unlock()
	f()
}

// Close implements tunnel.Carrier. What was written before still goes out: the
// channel is reset only when the peer has acknowledged everything, or after
// lingerTime, or with the peer connection.
func (c *Channel) Close(code framecodec.Code) error {
	if !c.markClosed(code, true) {
		return nil
	}
	c.crossed()
	c.wakeReader()
	if !c.peer.spawn(c.linger) {
		c.peer.forget(c)
	}
	return nil
}

// wakeReader has the reader see the end, behind what pion has for it.
func (c *Channel) wakeReader() { _ = c.raw.SetReadDeadline(time.Unix(1, 0)) }

// markClosed reports whether this was the end.
func (c *Channel) markClosed(code framecodec.Code, here bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.here = c.here || here
	if c.closed {
		return false
	}
	c.closed, c.code = true, code
	c.raw.SetBufferedAmountLowThreshold(0)
	return true
}

func (c *Channel) linger() {
	defer c.peer.forget(c)
	c.drain(lingerTime)
	_ = c.raw.Close()
}

// drain waits until nothing of a closed channel is unacknowledged, the peer has
// ended, or d is over.
func (c *Channel) drain(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.empty:
	case <-timer.C:
	case <-c.peer.done:
	}
}

// transportEnded is called when the peer has ended: who waits for room goes on,
// and so does the reader when it has read what there is.
func (c *Channel) transportEnded() {
	c.markClosed(tunnel.CodeOf(c.peer.Err()), false)
	c.crossed()
	c.wakeReader()
}

// closedHere returns an error when the channel has ended by Close.
func (c *Channel) closedHere() error {
	c.mu.Lock()
	here, code := c.here, c.code
	c.mu.Unlock()
	if !here {
		return nil
	}
	if err := c.peer.Err(); err != nil {
		return err
	}
	return &tunnel.Error{Code: framecodec.CodeTunnelClosed, Text: "the channel was closed here", Err: &tunnel.Error{Code: code}}
}

// ended returns why the channel is over: because the peer connection is, because
// it was closed here, or because of err, what pion said. nil: it is not.
func (c *Channel) ended(err error) error {
	if end := c.peer.Err(); end != nil {
		return end
	}
	if end := c.closedHere(); end != nil {
		return end
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, sctp.ErrStreamClosed):
		return &tunnel.Error{Code: framecodec.CodeTunnelClosed, Text: "the peer closed the channel", Err: err}
	default:
		// Not this channel's end, but the association's: the peer aborted it.
		c.peer.associationEnded(err)
		return c.peer.Err()
	}
}
