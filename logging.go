package culvert

import (
	"sync"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Warnings about clients: so many a second and endpoint reach the log, the rest
// is counted and told with the next one.
const warningsPerSecond = 10

// warnings samples what clients can cause at will, for each endpoint on its
// own. The zero value is ready; safe for concurrent use.
type warnings struct {
	mu sync.Mutex
	m  map[string]*sampler // by endpoint name, so bounded by configurations
}

type sampler struct {
	limiter    *rate.Limiter
	suppressed int
}

// allow reports whether a warning may be logged now, and how many before it
// were not.
func (w *warnings) allow(endpoint string) (suppressed int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = map[string]*sampler{}
	}
	s := w.m[endpoint]
	if s == nil {
		s = &sampler{limiter: rate.NewLimiter(warningsPerSecond, warningsPerSecond)}
		w.m[endpoint] = s
	}
	if !s.limiter.Allow() {
		s.suppressed++
		return 0, false
	}
	suppressed, s.suppressed = s.suppressed, 0
	return suppressed, true
}

// logger returns the newest configuration's logger. What lives longer than a
// configuration asks for it each time.
func (h *hub) logger() *zap.Logger {
	if env := h.current(); env != nil {
		return env.logger
	}
	return zap.NewNop()
}

// warnClient logs a refused or suspicious client, sampled for each endpoint (or
// remote, at an entry).
func (h *hub) warnClient(endpoint, message string, fields ...zap.Field) {
	suppressed, ok := h.warnings.allow(endpoint)
	if !ok {
		return
	}
	if suppressed > 0 {
		fields = append(fields, zap.Int("suppressed_before", suppressed))
	}
	h.logger().Warn(message, fields...)
}
