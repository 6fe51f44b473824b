package framecodec

import "encoding/binary"

// The envelope, SPEC.md section 1. All integers are big-endian.
//
//	offset 0     connection number u32 (0: control)
//	offset 4     word u64 (dialect 1: sender's clock; dialect 2: offset or sequence)
//	offset 12    payload length u32
//	offset 16    payload
//	offset 16+n  terminator ';'
const (
	HeaderSize = 16  // bytes before the payload
	Terminator = ';' // byte behind the payload
	Overhead   = HeaderSize + 1

	MaxFrame2   = 64 << 10             // largest frame of dialect 2, in bytes
	MaxPayload1 = 1 << 20              // largest payload of dialect 1, in bytes
	MaxPayload2 = MaxFrame2 - Overhead // largest payload of dialect 2, in bytes
	MaxControl  = 32 << 10             // largest control payload of either dialect, in bytes
)

// Frame is one parsed frame. Payload aliases the input.
type Frame struct {
	Conn    uint32 // 0: control
	Word    uint64
	Payload []byte
}

// ParseFrame reads the frame at the start of b and returns it with the number of
// bytes that it takes. A payload longer than maxPayload bytes (which is at most
// 1<<30) is refused as soon as the header is there.
//
// When b ends inside the frame the error is ErrShort and the number is the size
// of the whole frame, or 0 while the header is not complete. Any other error is
// a *SyntaxError with 0: the byte stream has lost its frames and cannot be used
// further. With an error the frame is zero.
func ParseFrame(b []byte, maxPayload int) (f Frame, n int, err error) {
	f.Conn, f.Word, f.Payload, n, err = split(b, maxPayload)
	return f, n, err
}

// Parse is ParseFrame into f, for loops: a Frame is too large to be returned in
// registers, and copying one just written costs twice as much as parsing it.
func (f *Frame) Parse(b []byte, maxPayload int) (n int, err error) {
	f.Conn, f.Word, f.Payload, n, err = split(b, maxPayload)
	return n, err
}

// split is the work of both, apart from them so that they are inlined.
func split(b []byte, maxPayload int) (conn uint32, word uint64, payload []byte, n int, err error) {
	if len(b) < HeaderSize {
		return 0, 0, nil, 0, ErrShort
	}
	length := binary.BigEndian.Uint32(b[12:])
	// In 64 bits: a u32 length does not fit an int of 386.
	if int64(length) > int64(maxPayload) {
		return 0, 0, nil, 0, syntax(12, "payload length above the limit")
	}
	end := HeaderSize + int(length)
	if len(b) <= end {
		return 0, 0, nil, end + 1, ErrShort
	}
	if b[end] != Terminator {
		return 0, 0, nil, 0, syntax(end, "frame without its terminator")
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:]), b[HeaderSize:end:end], end + 1, nil
}

// PutHeader writes the HeaderSize bytes before a payload of length bytes to the
// start of b. The caller writes the payload to b[HeaderSize:] and Terminator
// behind it: so data read from a socket straight into a message buffer becomes a
// frame without being moved.
func PutHeader(b []byte, conn uint32, word uint64, length int) {
	_ = b[HeaderSize-1]
	binary.BigEndian.PutUint32(b[0:4], conn)
	binary.BigEndian.PutUint64(b[4:12], word)
	binary.BigEndian.PutUint32(b[12:16], uint32(length))
}

// AppendFrame appends a whole frame to b.
func AppendFrame(b []byte, conn uint32, word uint64, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, conn)
	b = binary.BigEndian.AppendUint64(b, word)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	return append(b, Terminator)
}

// beginFrame appends room for a header; endFrame fills it in and closes the
// frame once the payload of a control message stands behind it.
func beginFrame(b []byte) []byte {
	var header [HeaderSize]byte
	return append(b, header[:]...)
}

func endFrame(b []byte, start int, word uint64) []byte {
	PutHeader(b[start:], 0, word, len(b)-start-HeaderSize)
	return append(b, Terminator)
}
