package framecodec

import (
	"encoding/binary"
	"unicode/utf8"
)

// CloseConnection ends a connection, or with Conn 0 the channel (dialect 1). It
// is never answered.
type CloseConnection struct {
	Conn   uint32
	Reason Reason
	Text   []byte // for people; may be empty; aliases the input
}

// ParseCloseConnection reads the data of a CloseConnection. An end is honoured
// however it is worded: without a reason it is ReasonNormal, an unknown reason is
// ReasonUnknown, and a text that is not fully there, too long or not UTF-8 reads
// as none. Only a connection number must be there.
func ParseCloseConnection(data []byte) (CloseConnection, error) {
	conn, err := parseConn(data)
	if err != nil {
		return CloseConnection{}, err
	}
	c := CloseConnection{Conn: conn}
	if len(data) == 4 {
		return c, nil
	}
	c.Reason = Reason(data[4])
	if !c.Reason.Known() {
		c.Reason = ReasonUnknown
	}
	c.Text = optionalText16(data[5:])
	return c, nil
}

// optionalText16 is parseText16 for a text that may as well be missing: nil, and
// no error made, if anything is wrong with it.
func optionalText16(data []byte) []byte {
	if len(data) < 2 {
		return nil
	}
	length := int(binary.BigEndian.Uint16(data))
	if length == 0 || length > MaxText || len(data)-2 < length {
		return nil
	}
	text := data[2 : 2+length : 2+length]
	if !utf8.Valid(text) {
		return nil
	}
	return text
}

// AppendPayload appends the control payload; an empty text is left out.
func (c CloseConnection) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgCloseConnection)
	b = binary.BigEndian.AppendUint32(b, c.Conn)
	b = append(b, byte(c.Reason))
	if len(c.Text) == 0 {
		return b
	}
	return appendText16(b, c.Text)
}

// AppendFrame appends the whole frame.
func (c CloseConnection) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(c.AppendPayload(beginFrame(b)), len(b), word)
}
