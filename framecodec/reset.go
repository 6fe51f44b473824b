package framecodec

import "encoding/binary"

const resetSize = 4 + 2 // before the text

// Reset ends both directions of a stream abruptly; it may overtake data of that
// stream (dialect 2).
type Reset struct {
	Conn uint32
	Code Code
	Text []byte // for people; may be empty; aliases the input
}

// ParseReset reads the data of a Reset.
func ParseReset(data []byte) (Reset, error) {
	if len(data) < resetSize {
		return Reset{}, syntax(len(data), "message is too short")
	}
	text, err := parseText16(data, resetSize)
	if err != nil {
		return Reset{}, err
	}
	return Reset{
		Conn: binary.BigEndian.Uint32(data),
		Code: Code(binary.BigEndian.Uint16(data[4:])),
		Text: text,
	}, nil
}

// AppendPayload appends the control payload.
func (r Reset) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgReset)
	b = binary.BigEndian.AppendUint32(b, r.Conn)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Code))
	return appendText16(b, r.Text)
}

// AppendFrame appends the whole frame.
func (r Reset) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(r.AppendPayload(beginFrame(b)), len(b), word)
}
