package framecodec

import "encoding/binary"

// Values of Open.Kind and Expose.Kind.
const (
	KindNamed         uint8 = 1 // named stream target
	KindTCP           uint8 = 2 // TCP host and port
	KindUDP           uint8 = 3 // UDP host and port
	KindNamedDatagram uint8 = 4 // named datagram target
)

const openSize = 4 + 1 + 4 // before the host

// Open asks for a stream (dialect 2); data of it may follow at once.
type Open struct {
	Conn   uint32
	Kind   uint8  // one of the Kind constants; others are the exit's to refuse
	Window uint32 // bytes from offset 0 that the opener lets the other side send
	Host   []byte // host, or name of a target, unchecked; aliases the input
	Port   uint16 // 0 for a name
	TLVs   TLVs   // aliases the input
}

// ParseOpen reads the data of an Open.
func ParseOpen(data []byte) (Open, error) {
	if len(data) < openSize {
		return Open{}, syntax(len(data), "message is too short")
	}
	host, at, err := parseBytes16(data, openSize)
	if err != nil {
		return Open{}, err
	}
	if len(data)-at < 2 {
		return Open{}, syntax(len(data), "message ends before the port")
	}
	tlvs, err := parseTLVs(data, at+2)
	if err != nil {
		return Open{}, err
	}
	return Open{
		Conn:   binary.BigEndian.Uint32(data),
		Kind:   data[4],
		Window: binary.BigEndian.Uint32(data[5:]),
		Host:   host,
		Port:   binary.BigEndian.Uint16(data[at:]),
		TLVs:   tlvs,
	}, nil
}

// AppendPayload appends the control payload. Host is at most MaxHost bytes.
func (o Open) AppendPayload(b []byte) []byte {
	b = appendMessage(b, MsgOpen)
	b = binary.BigEndian.AppendUint32(b, o.Conn)
	b = append(b, o.Kind)
	b = binary.BigEndian.AppendUint32(b, o.Window)
	b = appendBytes16(b, o.Host)
	b = binary.BigEndian.AppendUint16(b, o.Port)
	return append(b, o.TLVs...)
}

// AppendFrame appends the whole frame.
func (o Open) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(o.AppendPayload(beginFrame(b)), len(b), word)
}
