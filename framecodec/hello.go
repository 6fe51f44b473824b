package framecodec

import "encoding/binary"

// Bits of Hello.Features. A feature holds when both sides name it.
const (
	FeatureDatagrams uint32 = 1 << 0
	FeatureResume    uint32 = 1 << 1 // reserved
	FeatureReverse   uint32 = 1 << 2 // streams opened by the gateway
	FeatureLanes     uint32 = 1 << 3
)

const (
	// Version is the protocol version of dialect 2, and the lowest there is.
	Version uint16 = 2
	// MinStreamWindow is the least stream window of a Hello, in bytes.
	MinStreamWindow = 64 << 10
	// MinSessionWindow is the least session window of a Hello, in bytes.
	MinSessionWindow = 1 << 20

	helloSize = 2 + 4 + 4 + 8 + 4 + 16 // before the extensions
)

// Hello is the first frame of each side (dialect 2). The limits are those of
// what its sender receives.
type Hello struct {
	Version       uint16 // at least 2; the lower one of both holds
	MaxPayload    uint32 // bytes in a frame, at least 1
	StreamWindow  uint32 // bytes of a new stream, at least MinStreamWindow
	SessionWindow uint64 // bytes of all streams together, at least MinSessionWindow
	Features      uint32
	SessionID     [16]byte // zero from a new client
	TLVs          TLVs     // aliases the input
}

// ParseHello reads the data of a Hello and checks its lower bounds.
func ParseHello(data []byte) (Hello, error) {
	if len(data) < helloSize {
		return Hello{}, syntax(len(data), "message is too short")
	}
	tlvs, err := parseTLVs(data, helloSize)
	if err != nil {
		return Hello{}, err
	}
	h := Hello{
		Version:       binary.BigEndian.Uint16(data),
		MaxPayload:    binary.BigEndian.Uint32(data[2:]),
		StreamWindow:  binary.BigEndian.Uint32(data[6:]),
		SessionWindow: binary.BigEndian.Uint64(data[10:]),
		Features:      binary.BigEndian.Uint32(data[18:]),
		SessionID:     [16]byte(data[22:helloSize]),
		TLVs:          tlvs,
	}
	switch {
	case h.Version < Version:
		return Hello{}, syntax(0, "version below 2")
	case h.MaxPayload == 0:
		return Hello{}, syntax(2, "maximum payload of 0")
	case h.StreamWindow < MinStreamWindow:
		return Hello{}, syntax(6, "stream window below 65,536")
	case h.SessionWindow < MinSessionWindow:
		return Hello{}, syntax(10, "session window below 1 MiB")
	}
	return h, nil
}

// AppendPayload appends the control payload.
func (h Hello) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgHello)
	b = binary.BigEndian.AppendUint16(b, h.Version)
	b = binary.BigEndian.AppendUint32(b, h.MaxPayload)
	b = binary.BigEndian.AppendUint32(b, h.StreamWindow)
	b = binary.BigEndian.AppendUint64(b, h.SessionWindow)
	b = binary.BigEndian.AppendUint32(b, h.Features)
	b = append(b, h.SessionID[:]...)
	return append(b, h.TLVs...)
}

// AppendFrame appends the whole frame.
func (h Hello) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(h.AppendPayload(beginFrame(b)), len(b), word)
}
