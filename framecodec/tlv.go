package framecodec

import (
	"encoding/binary"
	"unicode/utf8"
)

// Types of the extensions at the end of Hello, Open and Opened; receivers skip
// types that they do not know. SPEC.md section 3.3.
const (
	TLVTraceparent uint16 = 1 // W3C trace context, text
	TLVPriority    uint16 = 2 // u8: one of the Priority constants
	TLVAddress     uint16 = 3 // address that a dial ended at, text
	TLVParams      uint16 = 4 // parameters of a Guacamole target, UTF-8 JSON object
)

// Values of TLVPriority.
const (
	PriorityBulk        uint8 = 0
	PriorityDefault     uint8 = 1
	PriorityInteractive uint8 = 2
)

// TLVs is a list of extensions as it stands in a message: type u16, length u16,
// value, and so on to the end. The nil list is empty.
type TLVs []byte

// Next returns the first extension and the list behind it. An empty list gives
// a nil value and rest; a value is never nil. A list out of a parsed message has
// been checked, so err is always nil there.
func (t TLVs) Next() (typ uint16, value []byte, rest TLVs, err error) {
	if len(t) == 0 {
		return 0, nil, nil, nil
	}
	if len(t) < 4 {
		return 0, nil, nil, syntax(len(t), "extension ends inside its header")
	}
	length := int(binary.BigEndian.Uint16(t[2:]))
	if len(t)-4 < length {
		return 0, nil, nil, syntax(2, "extension longer than the message")
	}
	end := 4 + length
	return binary.BigEndian.Uint16(t), t[4:end:end], t[end:], nil
}

// Get returns the value of the first extension of that type.
func (t TLVs) Get(typ uint16) ([]byte, bool) {
	for len(t) > 0 {
		found, value, rest, err := t.Next()
		if err != nil {
			return nil, false
		}
		if found == typ {
			return value, true
		}
		t = rest
	}
	return nil, false
}

// AppendTLV appends one extension to a list. A value above MaxText bytes, which
// no peer accepts, is left out whole: half of it would mean something else.
func AppendTLV(t TLVs, typ uint16, value []byte) TLVs {
	if len(value) > MaxText {
		return t
	}
	t = binary.BigEndian.AppendUint16(t, typ)
	t = binary.BigEndian.AppendUint16(t, uint16(len(value)))
	return append(t, value...)
}

// parseTLVs checks the list at data[at:] to its end.
func parseTLVs(data []byte, at int) (TLVs, error) {
	all := TLVs(data[at:])
	for t := all; len(t) > 0; {
		offset := len(data) - len(t)
		typ, value, rest, err := t.Next()
		if err != nil {
			return nil, syntax(offset, "extension beyond the end of the message")
		}
		if what := checkTLV(typ, value); what != "" {
			return nil, syntax(offset, what)
		}
		t = rest
	}
	return all, nil
}

// checkTLV returns what is wrong with the value of a known type.
func checkTLV(typ uint16, value []byte) string {
	switch typ {
	case TLVPriority:
		if len(value) != 1 {
			return "priority is not one byte"
		}
	case TLVTraceparent, TLVAddress, TLVParams:
		if len(value) > MaxText {
			return "extension text above 1,024 bytes"
		}
		if !utf8.Valid(value) {
			return "extension text is not valid UTF-8"
		}
	}
	return ""
}
