package framecodec

import "encoding/binary"

// Ping asks for a Pong with the same bytes.
//
// Dialect 1: nothing, or connection u32 and any bytes. Dialect 2: connection 0
// and 8 bytes of the sender's clock, in units of its own.
type Ping struct {
	Conn    uint32
	HasConn bool   // false: no connection number was sent; Conn is 0, Extra nil
	Extra   []byte // to be echoed; aliases the input
}

// ParsePing reads the data of a Ping. Fewer than 4 bytes count as none; it never
// fails.
func ParsePing(data []byte) (Ping, error) {
	if len(data) < 4 {
		return Ping{}, nil
	}
	return Ping{Conn: binary.BigEndian.Uint32(data), HasConn: true, Extra: data[4:]}, nil
}

// Clock returns the sender's clock of a dialect 2 Ping; false: it is not one,
// which is a protocol error there.
func (p Ping) Clock() (uint64, bool) { return clock(p.Conn, p.Extra) }

// Pong returns the answer.
func (p Ping) Pong() Pong { return Pong{Conn: p.Conn, Extra: p.Extra} }

// AppendPayload appends the control payload.
func (p Ping) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgPing)
	if !p.HasConn {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, p.Conn)
	return append(b, p.Extra...)
}

// AppendFrame appends the whole frame.
func (p Ping) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(p.AppendPayload(beginFrame(b)), len(b), word)
}

// clock reads what Ping and Pong of dialect 2 carry.
func clock(conn uint32, extra []byte) (uint64, bool) {
	if conn != 0 || len(extra) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(extra), true
}
