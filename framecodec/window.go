package framecodec

import "encoding/binary"

const windowSize = 4 + 8 + 8

// Window says how far a direction has come and may go (dialect 2). It is
// idempotent and never moves back.
type Window struct {
	Conn     uint32 // 0: all data frames of the direction together
	Consumed uint64 // bytes below it were delivered
	Limit    uint64 // bytes below it may be sent
}

// ParseWindow reads the data of a Window.
func ParseWindow(data []byte) (Window, error) {
	if err := checkFixed(data, windowSize); err != nil {
		return Window{}, err
	}
	return Window{
		Conn:     binary.BigEndian.Uint32(data),
		Consumed: binary.BigEndian.Uint64(data[4:]),
		Limit:    binary.BigEndian.Uint64(data[12:]),
	}, nil
}

// AppendPayload appends the control payload.
func (w Window) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgWindow)
	b = binary.BigEndian.AppendUint32(b, w.Conn)
	b = binary.BigEndian.AppendUint64(b, w.Consumed)
	return binary.BigEndian.AppendUint64(b, w.Limit)
}

// AppendFrame appends the whole frame.
func (w Window) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(w.AppendPayload(beginFrame(b)), len(b), word)
}
