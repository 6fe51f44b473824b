package framecodec

const exposeSize = 1 // before the name

// Expose offers a service of the client to the gateway; Exposed answers it
// (dialect 2, FeatureReverse).
type Expose struct {
	Kind uint8  // KindNamed or KindNamedDatagram; others are the gateway's to refuse
	Name []byte // unchecked; aliases the input
}

// ParseExpose reads the data of an Expose.
func ParseExpose(data []byte) (Expose, error) {
	if len(data) < exposeSize {
		return Expose{}, syntax(0, "message is too short")
	}
	name, err := parseLast16(data, exposeSize)
	if err != nil {
		return Expose{}, err
	}
	return Expose{Kind: data[0], Name: name}, nil
}

// AppendPayload appends the control payload. Name is at most MaxHost bytes.
func (e Expose) AppendPayload(b []byte) []byte {
	b = append(appendMessage(b, MsgExpose), e.Kind)
	return appendBytes16(b, e.Name)
}

// AppendFrame appends the whole frame.
func (e Expose) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(e.AppendPayload(beginFrame(b)), len(b), word)
}
