package framecodec

import "encoding/binary"

// ConnectionOpened says that the target of an OpenConnection has been reached
// (dialect 1).
type ConnectionOpened struct {
	Conn uint32
}

// ParseConnectionOpened reads the data of a ConnectionOpened; bytes behind the number are ignored.
func ParseConnectionOpened(data []byte) (ConnectionOpened, error) {
	conn, err := parseConn(data)
	return ConnectionOpened{Conn: conn}, err
}

// AppendPayload appends the control payload.
func (c ConnectionOpened) AppendPayload(b []byte) []byte {
	return binary.BigEndian.AppendUint32(appendMessage(b, MsgConnectionOpened), c.Conn)
}

// AppendFrame appends the whole frame.
func (c ConnectionOpened) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(c.AppendPayload(beginFrame(b)), len(b), word)
}
