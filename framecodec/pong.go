package framecodec

import "encoding/binary"

// Pong answers a Ping: its connection number (0 if there was none) and its other
// bytes, unchanged.
type Pong struct {
	Conn  uint32
	Extra []byte // aliases the input
}

// ParsePong reads the data of a Pong.
func ParsePong(data []byte) (Pong, error) {
	conn, err := parseConn(data)
	if err != nil {
		return Pong{}, err
	}
	return Pong{Conn: conn, Extra: data[4:]}, nil
}

// Clock returns the clock that the answered Ping of dialect 2 carried; false: it
// is not one, which is a protocol error there.
func (p Pong) Clock() (uint64, bool) { return clock(p.Conn, p.Extra) }

// AppendPayload appends the control payload.
func (p Pong) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgPong)
	b = binary.BigEndian.AppendUint32(b, p.Conn)
	return append(b, p.Extra...)
}

// AppendFrame appends the whole frame.
func (p Pong) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(p.AppendPayload(beginFrame(b)), len(b), word)
}
