package tunnel

import "time"

// MinSessionMemory is what every session of dialect 2 lets its peer have in
// flight, in bytes, and so reserves from its Budget for as long as it lives.
const MinSessionMemory = 1 << 20

// Config is what a Session is made with. Only Dialect and Role need a value.
type Config struct {
	Dialect Dialect
	Role    Role
	// Accept is called for each stream that the peer opens, also concurrently. It
	// must return at once; nil refuses all with not_allowed. At a client the peer
	// opens streams to services (Session.Expose) only; without Accept none can be
	// offered.
	Accept func(*Incoming)
	// Exposed is asked, at a gateway, for each service that the client offers, and
	// answers at once: CodeNormal for yes. The text is for people; one beside
	// CodeNormal says what the service is called here. nil: no services are taken.
	// The name is what the client wrote.
	Exposed func(kind Kind, name string) (Code, string)
	// Withdrawn is told of each service that the client takes back; also of names
	// that it never offered. Services that are left end with the session.
	Withdrawn func(name string)
	// Observer is told of streams and panics; nil for none.
	Observer Observer
	// Budget is the tunnel's; nil means one of 64 MiB of its own.
	Budget *Budget
	// MaxStreams that the peer may have open at a time. Default: 4,096.
	MaxStreams int
	// HelloTimeout is how long the peer's Hello may take. Default: 10 s.
	HelloTimeout time.Duration
	// WriteTimeout ends a stream whose Endpoint takes no byte for this long while
	// some wait. 0: as long as memory is not short. In dialect 1 it is how long a
	// stream may hold up the whole channel, and 0 means 30 s.
	WriteTimeout time.Duration
	// IdleTimeout ends a stream without data. 0: never.
	IdleTimeout time.Duration
	// FlowIdleTimeout ends a flow without datagrams. Default: 60 s.
	FlowIdleTimeout time.Duration
	// Rates are the limits to begin with; SetRates changes them.
	Rates Rates
}

func (c Config) withDefaults() Config {
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	if c.Budget == nil {
		c.Budget = NewBudget(nil, 64<<20)
	}
	if c.MaxStreams <= 0 {
		c.MaxStreams = 4096
	}
	if c.HelloTimeout <= 0 {
		c.HelloTimeout = 10 * time.Second
	}
	if c.FlowIdleTimeout <= 0 {
		c.FlowIdleTimeout = 60 * time.Second
	}
	if c.WriteTimeout <= 0 && c.Dialect == Dialect1 {
		c.WriteTimeout = 30 * time.Second
	}
	return c
}

// Observer is told what happens. The methods are called without any lock held,
// must not block, and must not call back into the stream's Session except for
// reading. A panic in one of the first two ends the session.
type Observer interface {
	StreamOpened(st *Stream)                        // answered, on either side
	StreamEnded(st *Stream, code Code, text string) // once for each stream, answered or not
	Panicked(v any, stack []byte)                   // a goroutine of the session panicked; the session ends
}

type noObserver struct{}

func (noObserver) StreamOpened(*Stream)              {}
func (noObserver) StreamEnded(*Stream, Code, string) {}
func (noObserver) Panicked(any, []byte)              {}
