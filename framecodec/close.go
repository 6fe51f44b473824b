package framecodec

import "encoding/binary"

const closeSize = 2 // before the text

// Close ends the session; the channel is closed behind it (dialect 2).
type Close struct {
	Code Code
	Text []byte // for people; may be empty; aliases the input
}

// ParseClose reads the data of a Close.
func ParseClose(data []byte) (Close, error) {
	if len(data) < closeSize {
		return Close{}, syntax(len(data), "message is too short")
	}
	text, err := parseText16(data, closeSize)
	if err != nil {
		return Close{}, err
	}
	return Close{Code: Code(binary.BigEndian.Uint16(data)), Text: text}, nil
}

// AppendPayload appends the control payload.
func (c Close) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgClose)
	b = binary.BigEndian.AppendUint16(b, uint16(c.Code))
	return appendText16(b, c.Text)
}

// AppendFrame appends the whole frame.
func (c Close) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(c.AppendPayload(beginFrame(b)), len(b), word)
}
