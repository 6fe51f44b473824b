package tunnel

import "sync"

// Message buffers are held only during a call: the sender takes one to build a
// message, the receiver one to read a message. Nothing is held while idle.
const (
	// chunkSize is the most payload that one data frame of ours carries, and the
	// amount up to which frames are put together into one message.
	chunkSize = 16 << 10
	// controlRoom is the part of a message that control frames may take in front
	// of the data.
	controlRoom = 12 << 10
	// tailRoom is kept free behind the data for the terminator and a Finish.
	tailRoom = 64
	// messageSize is what the sender builds at most.
	messageSize = controlRoom + chunkSize + 2*tailRoom
	// maxMessage is what we announce (a=max-message-size) and read at most.
	maxMessage = 65536
)

type messageBuf [messageSize]byte

type receiveBuf [maxMessage]byte

var (
	messagePool = sync.Pool{New: func() any { return new(messageBuf) }}
	receivePool = sync.Pool{New: func() any { return new(receiveBuf) }}
)

// A segment is a piece of a leftover queue. Its size follows what is left over,
// so that a queue of few bytes costs few.
type segment struct {
	next *segment
	r, w int
	buf  []byte
}

var segmentClasses = [...]int{1 << 10, 4 << 10, 16 << 10}

var segmentPools [len(segmentClasses)]sync.Pool

// newSegment returns a segment for n bytes or, if n is larger than the largest
// class, for a part of them.
func newSegment(n int) *segment {
	class := len(segmentClasses) - 1
	for i, size := range segmentClasses {
		if n <= size {
			class = i
			break
		}
	}
	if g, ok := segmentPools[class].Get().(*segment); ok {
		return g
	}
	return &segment{buf: make([]byte, segmentClasses[class])}
}

func (g *segment) free() {
	g.next, g.r, g.w = nil, 0, 0
	for i, size := range segmentClasses {
		if len(g.buf) == size {
			segmentPools[i].Put(g)
			return
		}
	}
}
