package framecodec

import "encoding/binary"

const goAwaySize = 2 + 4 // before the text

// GoAway asks the peer to open nothing more and to finish what runs (dialect 2).
type GoAway struct {
	Code     Code
	Deadline uint32 // milliseconds until the sender closes the session; 0: none
	Text     []byte // for people; may be empty; aliases the input
}

// ParseGoAway reads the data of a GoAway.
func ParseGoAway(data []byte) (GoAway, error) {
	if len(data) < goAwaySize {
		return GoAway{}, syntax(len(data), "message is too short")
	}
	text, err := parseText16(data, goAwaySize)
	if err != nil {
		return GoAway{}, err
	}
	return GoAway{
		Code:     Code(binary.BigEndian.Uint16(data)),
		Deadline: binary.BigEndian.Uint32(data[2:]),
		Text:     text,
	}, nil
}

// AppendPayload appends the control payload.
func (g GoAway) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgGoAway)
	b = binary.BigEndian.AppendUint16(b, uint16(g.Code))
	b = binary.BigEndian.AppendUint32(b, g.Deadline)
	return appendText16(b, g.Text)
}

// AppendFrame appends the whole frame.
func (g GoAway) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(g.AppendPayload(beginFrame(b)), len(b), word)
}
