package framecodec

// Withdraw takes back an Expose (dialect 2, FeatureReverse).
type Withdraw struct {
	Name []byte // unchecked; aliases the input
}

// ParseWithdraw reads the data of a Withdraw.
func ParseWithdraw(data []byte) (Withdraw, error) {
	name, err := parseLast16(data, 0)
	if err != nil {
		return Withdraw{}, err
	}
	return Withdraw{Name: name}, nil
}

// AppendPayload appends the control payload. Name is at most MaxHost bytes.
func (w Withdraw) AppendPayload(b []byte) []byte {
	return appendBytes16(appendMessage(b, MsgWithdraw), w.Name)
}

// AppendFrame appends the whole frame.
func (w Withdraw) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(w.AppendPayload(beginFrame(b)), len(b), word)
}
