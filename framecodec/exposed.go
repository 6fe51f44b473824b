package framecodec

import "encoding/binary"

const exposedSize = 2 // before the name

// Exposed answers an Expose (dialect 2, FeatureReverse).
type Exposed struct {
	Code Code   // CodeNormal: accepted
	Name []byte // as in the Expose, unchecked; aliases the input
	Text []byte // for people; may be empty; aliases the input
}

// ParseExposed reads the data of an Exposed.
func ParseExposed(data []byte) (Exposed, error) {
	if len(data) < exposedSize {
		return Exposed{}, syntax(len(data), "message is too short")
	}
	name, at, err := parseBytes16(data, exposedSize)
	if err != nil {
		return Exposed{}, err
	}
	text, err := parseText16(data, at)
	if err != nil {
		return Exposed{}, err
	}
	return Exposed{Code: Code(binary.BigEndian.Uint16(data)), Name: name, Text: text}, nil
}

// AppendPayload appends the control payload. Name is at most MaxHost bytes.
func (e Exposed) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgExposed)
	b = binary.BigEndian.AppendUint16(b, uint16(e.Code))
	b = appendBytes16(b, e.Name)
	return appendText16(b, e.Text)
}

// AppendFrame appends the whole frame.
func (e Exposed) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(e.AppendPayload(beginFrame(b)), len(b), word)
}
