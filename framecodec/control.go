package framecodec

import (
	"encoding/binary"
	"strconv"
)

// Message is the kind of a control message: the first two bytes of the payload
// of a frame of connection 0. The comments give the data behind them.
type Message uint16

// Both dialects (SPEC.md sections 2 and 3.2).
const (
	MsgPing Message = 1 // nothing, or connection u32 and any bytes
	MsgPong Message = 2 // connection u32 and the same bytes
)

// Dialect 1 (SPEC.md section 2).
const (
	MsgOpenConnection   Message = 101 // connection u32 [, host length u32, host, port u16]
	MsgCloseConnection  Message = 102 // connection u32, reason u8 [, text length u16, text]
	MsgConnectionOpened Message = 103 // connection u32
	MsgSendEOF          Message = 104 // connection u32
	MsgMetricsRequest   Message = 301 // anything
	MsgMetricsResponse  Message = 302 // JSON object
	MsgMetricsConfig    Message = 303 // JSON object
)

// Dialect 2 (SPEC.md section 3.2). 408 and 409 are reserved.
const (
	MsgHello    Message = 401 // version u16, max payload u32, stream window u32, session window u64, features u32, session id [16], TLVs
	MsgWindow   Message = 402 // connection u32, consumed u64, limit u64
	MsgOpen     Message = 403 // connection u32, kind u8, window u32, host length u16, host, port u16, TLVs
	MsgOpened   Message = 404 // connection u32, window u32, TLVs
	MsgReset    Message = 405 // connection u32, code u16, text length u16, text
	MsgFinish   Message = 406 // connection u32, final offset u64
	MsgGoAway   Message = 407 // code u16, deadline ms u32, text length u16, text
	MsgClose    Message = 410 // code u16, text length u16, text
	MsgExpose   Message = 411 // kind u8, name length u16, name
	MsgWithdraw Message = 412 // name length u16, name
	MsgExposed  Message = 413 // code u16, name length u16, name, text length u16, text
)

// String returns the message's name, or "message_999" for one that this version
// does not know.
func (m Message) String() string {
	switch m {
	case MsgPing:
		return "Ping"
	case MsgPong:
		return "Pong"
	case MsgOpenConnection:
		return "OpenConnection"
	case MsgCloseConnection:
		return "CloseConnection"
	case MsgConnectionOpened:
		return "ConnectionOpened"
	case MsgSendEOF:
		return "SendEOF"
	case MsgMetricsRequest:
		return "MetricsRequest"
	case MsgMetricsResponse:
		return "MetricsResponse"
	case MsgMetricsConfig:
		return "MetricsConfig"
	case MsgHello:
		return "Hello"
	case MsgWindow:
		return "Window"
	case MsgOpen:
		return "Open"
	case MsgOpened:
		return "Opened"
	case MsgReset:
		return "Reset"
	case MsgFinish:
		return "Finish"
	case MsgGoAway:
		return "GoAway"
	case MsgClose:
		return "Close"
	case MsgExpose:
		return "Expose"
	case MsgWithdraw:
		return "Withdraw"
	case MsgExposed:
		return "Exposed"
	default:
		return "message_" + strconv.Itoa(int(m))
	}
}

// ParseControl splits the payload of a frame of connection 0 into the message's
// kind and its data, which the Parse function of that message reads. The data
// aliases payload. An unknown kind is no error here.
func ParseControl(payload []byte) (Message, []byte, error) {
	if len(payload) > MaxControl {
		return 0, nil, syntax(MaxControl, "control payload above 32 KiB")
	}
	if len(payload) < 2 {
		return 0, nil, syntax(len(payload), "control payload without a message code")
	}
	return Message(binary.BigEndian.Uint16(payload)), payload[2:], nil
}

// appendMessage appends a message's kind, the start of every control payload.
func appendMessage(b []byte, m Message) []byte {
	return binary.BigEndian.AppendUint16(b, uint16(m))
}

// parseConn reads the connection number that most messages begin with.
func parseConn(data []byte) (uint32, error) {
	if len(data) < 4 {
		return 0, syntax(len(data), "message ends before its connection number")
	}
	return binary.BigEndian.Uint32(data), nil
}

// checkFixed holds data against a layout of exactly size bytes.
func checkFixed(data []byte, size int) error {
	if len(data) < size {
		return syntax(len(data), "message is too short")
	}
	if len(data) > size {
		return syntax(size, "bytes behind the end of the message")
	}
	return nil
}
