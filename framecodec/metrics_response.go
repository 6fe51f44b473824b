package framecodec

// MetricsResponse answers a MetricsRequest with a JSON object (dialect 1).
type MetricsResponse struct {
	JSON []byte // unchecked, for encoding/json; aliases the input
}

// ParseMetricsResponse reads the data of a MetricsResponse. It never fails.
func ParseMetricsResponse(data []byte) (MetricsResponse, error) {
	return MetricsResponse{JSON: data}, nil
}

// AppendPayload appends the control payload.
func (m MetricsResponse) AppendPayload(b []byte) []byte {
	return append(appendMessage(b, MsgMetricsResponse), m.JSON...)
}

// AppendFrame appends the whole frame.
func (m MetricsResponse) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(m.AppendPayload(beginFrame(b)), len(b), word)
}
