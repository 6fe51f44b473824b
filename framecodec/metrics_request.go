package framecodec

// MetricsRequest asks for a MetricsResponse (dialect 1).
type MetricsRequest struct{}

// ParseMetricsRequest accepts any data. It never fails.
func ParseMetricsRequest([]byte) (MetricsRequest, error) { return MetricsRequest{}, nil }

// AppendPayload appends the control payload.
func (MetricsRequest) AppendPayload(b []byte) []byte {
	return appendMessage(b, MsgMetricsRequest)
}

// AppendFrame appends the whole frame.
func (m MetricsRequest) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(m.AppendPayload(beginFrame(b)), len(b), word)
}
