package framecodec

import "encoding/binary"

const openedSize = 4 + 4 // before the extensions

// Opened says that the target of an Open has been reached (dialect 2). It
// precedes the first data of the side that was asked.
type Opened struct {
	Conn   uint32
	Window uint32 // bytes from offset 0 that the opener may send
	TLVs   TLVs   // TLVAddress: the bound address; aliases the input
}

// ParseOpened reads the data of an Opened.
func ParseOpened(data []byte) (Opened, error) {
	if len(data) < openedSize {
		return Opened{}, syntax(len(data), "message is too short")
	}
	tlvs, err := parseTLVs(data, openedSize)
	if err != nil {
		return Opened{}, err
	}
	return Opened{
		Conn:   binary.BigEndian.Uint32(data),
		Window: binary.BigEndian.Uint32(data[4:]),
		TLVs:   tlvs,
	}, nil
}

// AppendPayload appends the control payload.
func (o Opened) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgOpened)
	b = binary.BigEndian.AppendUint32(b, o.Conn)
	b = binary.BigEndian.AppendUint32(b, o.Window)
	return append(b, o.TLVs...)
}

// AppendFrame appends the whole frame.
func (o Opened) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(o.AppendPayload(beginFrame(b)), len(b), word)
}
