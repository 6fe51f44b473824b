package framecodec

import "encoding/binary"

const finishSize = 4 + 8

// Finish ends one direction of a stream in order, behind its data (dialect 2).
type Finish struct {
	Conn   uint32
	Offset uint64 // bytes of that direction in all
}

// ParseFinish reads the data of a Finish.
func ParseFinish(data []byte) (Finish, error) {
	if err := checkFixed(data, finishSize); err != nil {
		return Finish{}, err
	}
	return Finish{
		Conn:   binary.BigEndian.Uint32(data),
		Offset: binary.BigEndian.Uint64(data[4:]),
	}, nil
}

// AppendPayload appends the control payload.
func (f Finish) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgFinish)
	b = binary.BigEndian.AppendUint32(b, f.Conn)
	return binary.BigEndian.AppendUint64(b, f.Offset)
}

// AppendFrame appends the whole frame.
func (f Finish) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(f.AppendPayload(beginFrame(b)), len(b), word)
}
