package framecodec

import "encoding/binary"

// SendEOF ends one direction behind its data: the sender's socket has seen FIN
// (dialect 1). The other direction goes on.
type SendEOF struct {
	Conn uint32
}

// ParseSendEOF reads the data of a SendEOF; bytes behind the number are ignored.
func ParseSendEOF(data []byte) (SendEOF, error) {
	conn, err := parseConn(data)
	return SendEOF{Conn: conn}, err
}

// AppendPayload appends the control payload.
func (s SendEOF) AppendPayload(b []byte) []byte {
	return binary.BigEndian.AppendUint32(appendMessage(b, MsgSendEOF), s.Conn)
}

// AppendFrame appends the whole frame.
func (s SendEOF) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(s.AppendPayload(beginFrame(b)), len(b), word)
}
