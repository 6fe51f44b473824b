package tunnel

import (
	"sync/atomic"

	"github.com/culvertgate/culvert/framecodec"
)

// sendCredit is the session credit that the peer has given us: payload bytes of
// all streams together (dialect 2).
type sendCredit struct {
	used     uint64        // the sender's own
	limit    atomic.Uint64 // set by the receiver
	stream   atomic.Uint64 // the peer's window for a new stream
	payload  atomic.Uint32 // the most that a frame of ours may carry
	peerMost atomic.Uint32 // the most that the peer takes in a frame; 0 before its Hello
}

func (c *sendCredit) init(s *Session) {
	c.payload.Store(uint32(max(1, min(chunkSize, s.carrier.MaxMessage()-framecodec.Overhead))))
	if s.d1 {
		c.limit.Store(^uint64(0))
		c.stream.Store(^uint64(0))
		return
	}
	// So much a client may use before the gateway's Hello has come.
	c.limit.Store(framecodec.MinSessionWindow)
	c.stream.Store(framecodec.MinStreamWindow)
}

// left is what the sender may still send in all.
func (c *sendCredit) left(s *Session) uint64 {
	if s.d1 {
		return 1 << 30
	}
	limit := c.limit.Load()
	return limit - min(c.used, limit)
}
