package rtc

import (
	"fmt"
	"sync"
	"time"

	"github.com/pion/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// loggers hands pion one shared logger a scope (its own makes five for each
// scope and peer connection). What pion says is of use to its developers, so it
// is lowered: errors to warnings, everything else to debug; its debug and trace
// output is not taken at all. Of messages that could hold ICE credentials or
// parts of descriptions only the constant text is logged, without its
// arguments. At most pionLogsPerSecond lines a second are written of each level.
type loggers struct {
	log func() *zap.Logger

	mu     sync.Mutex
	scopes map[string]*scopeLogger
	second int64
	count  map[zapcore.Level]int // in that second
}

const pionLogsPerSecond = 10

func newLoggers(log func() *zap.Logger) *loggers {
	return &loggers{log: log, scopes: make(map[string]*scopeLogger)}
}

// NewLogger implements logging.LoggerFactory.
func (l *loggers) NewLogger(scope string) logging.LeveledLogger {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.scopes[scope]
	if s == nil {
		s = &scopeLogger{all: l, scope: scope}
		l.scopes[scope] = s
	}
	return s
}

func (l *loggers) room(level zapcore.Level) bool {
	now := time.Now().Unix()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.second != now {
		l.second, l.count = now, make(map[zapcore.Level]int, 2)
	}
	l.count[level]++
	return l.count[level] <= pionLogsPerSecond
}

type scopeLogger struct {
	all   *loggers
	scope string
}

func (s *scopeLogger) write(level zapcore.Level, format string, args []any) {
	entry := s.all.log().Check(level, "pion: "+format)
	if entry == nil || !s.all.room(level) {
		return
	}
	fields := []zap.Field{zap.String("scope", s.scope)}
	if s.tells() {
		for _, a := range args {
			if err, ok := a.(error); ok {
				fields = append(fields, zap.String("error", err.Error()))
			} else if d, ok := a.(fmt.Stringer); ok {
				fields = append(fields, zap.Stringer("detail", d))
			}
		}
	}
	entry.Write(fields...)
}

// tells reports whether the arguments of this scope's messages hold no secret:
// below ICE there are none.
func (s *scopeLogger) tells() bool {
	return s.scope == "dtls" || s.scope == "sctp" || s.scope == "datachannel"
}

func (s *scopeLogger) Trace(string)          {}
func (s *scopeLogger) Tracef(string, ...any) {}
func (s *scopeLogger) Debug(string)          {}
func (s *scopeLogger) Debugf(string, ...any) {}
func (s *scopeLogger) Info(string)           {}
func (s *scopeLogger) Infof(string, ...any)  {}

func (s *scopeLogger) Warn(string) { s.write(zapcore.DebugLevel, "warning", nil) }

func (s *scopeLogger) Warnf(format string, args ...any) {
	s.write(zapcore.DebugLevel, format, args)
}

func (s *scopeLogger) Error(string) { s.write(zapcore.WarnLevel, "error", nil) }

func (s *scopeLogger) Errorf(format string, args ...any) {
	s.write(zapcore.WarnLevel, format, args)
}
