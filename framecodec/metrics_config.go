package framecodec

// MetricsConfig is a JSON object of the reference's metrics settings (dialect 1),
// which nothing here acts on.
type MetricsConfig struct {
	JSON []byte // unchecked, for encoding/json; aliases the input
}

// ParseMetricsConfig reads the data of a MetricsConfig. It never fails.
func ParseMetricsConfig(data []byte) (MetricsConfig, error) {
	return MetricsConfig{JSON: data}, nil
}

// AppendPayload appends the control payload.
func (m MetricsConfig) AppendPayload(b []byte) []byte {
	return append(appendMessage(b, MsgMetricsConfig), m.JSON...)
}

// AppendFrame appends the whole frame.
func (m MetricsConfig) AppendFrame(b []byte, word uint64) []byte {
	return endFrame(m.AppendPayload(beginFrame(b)), len(b), word)
}
