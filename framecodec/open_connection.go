package framecodec

import (
	"encoding/binary"
	"math"
)

// OpenConnection asks for a connection (dialect 1). The number is the sender's
// choice; data of it may follow at once.
type OpenConnection struct {
	Conn      uint32
	HasTarget bool   // false: the exit knows where to
	Host      []byte // name, IPv4 or IPv6 text, unchecked; aliases the input
	Port      uint16
}

// ParseOpenConnection reads the data of an OpenConnection. With an error behind
// the connection number, Conn is set all the same: only that connection is at
// fault, and is to be closed.
func ParseOpenConnection(data []byte) (OpenConnection, error) {
	conn, err := parseConn(data)
	if err != nil {
		return OpenConnection{}, err
	}
	o := OpenConnection{Conn: conn}
	if len(data) == 4 {
		return o, nil
	}
	if len(data) < 8 {
		return o, syntax(len(data), "message ends inside the host's length")
	}
	length := binary.BigEndian.Uint32(data[4:])
	// In 64 bits: a lying length must neither wrap nor turn negative.
	if int64(len(data)) < 8+int64(length)+2 {
		return o, syntax(4, "host length beyond the end of the message")
	}
	end := 8 + int(length)
	// The reference's encrypted form of this message begins alike and is longer.
	if len(data) > end+2 {
		return o, syntax(end+2, "bytes behind the port")
	}
	o.HasTarget = true
	o.Host = data[8:end:end]
	o.Port = binary.BigEndian.Uint16(data[end:])
	return o, nil
}

// AppendPayload appends the control payload. Host is at most MaxHost bytes.
func (o OpenConnection) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgOpenConnection)
	b = binary.BigEndian.AppendUint32(b, o.Conn)
	if !o.HasTarget {
		return b
	}
	host := o.Host[:min(len(o.Host), math.MaxUint16)] // as appendBytes16
	b = binary.BigEndian.AppendUint32(b, uint32(len(host)))
	b = append(b, host...)
	return binary.BigEndian.AppendUint16(b, o.Port)
}

// AppendFrame appends the whole frame.
func (o OpenConnection) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(o.AppendPayload(beginFrame(b)), len(b), word)
}
