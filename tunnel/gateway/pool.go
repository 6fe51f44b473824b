package gateway

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// PoolConfig bounds the opens of a process. Zero values mean the defaults.
type PoolConfig struct {
	PerAddress int // dials in progress to one address and port; 64
	Total      int // opens dialling or waiting; 16,384
}

// Pool counts the opens of a process, so that neither the number of goroutines
// nor the load on one target follows what clients ask for. Each address has a
// line of its own: who waits there stands in front of nobody else. It is safe
// for concurrent use and has no goroutine.
type Pool struct {
	cfg PoolConfig

	mu    sync.Mutex
	opens int                      // guarded by mu
	lines map[policy.Address]*line // guarded by mu; an entry exists while users > 0
}

// line is who dials one address or waits to: the semaphore serves in order.
type line struct {
	places *semaphore.Weighted
	users  int // guarded by Pool.mu
}

// NewPool returns an empty pool.
func NewPool(cfg PoolConfig) *Pool {
	if cfg.PerAddress <= 0 {
		cfg.PerAddress = 64
	}
	if cfg.Total <= 0 {
		cfg.Total = 16384
	}
	return &Pool{cfg: cfg, lines: make(map[policy.Address]*line)}
}

// Opens returns how many opens are dialling or waiting now.
func (p *Pool) Opens() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opens
}

// enter takes a place for one open, or reports that none is left.
func (p *Pool) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opens >= p.cfg.Total {
		return false
	}
	p.opens++
	return true
}

func (p *Pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opens--
}

// wait stands in line for a dial to a, as long as ctx lets it.
func (p *Pool) wait(ctx context.Context, a policy.Address) (release func(), err error) {
	l := p.join(a)
	if err := l.places.Acquire(ctx, 1); err != nil {
		p.part(a, l)
		return nil, &tunnel.Error{Code: tunnel.CodeOf(err), Text: policy.ClientText(tunnel.CodeOf(err)), Err: err}
	}
	return func() {
		l.places.Release(1)
		p.part(a, l)
	}, nil
}

func (p *Pool) join(a policy.Address) *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[a]
	if l == nil {
		l = &line{places: semaphore.NewWeighted(int64(p.cfg.PerAddress))}
		p.lines[a] = l
	}
	l.users++
	return l
}

func (p *Pool) part(a policy.Address, l *line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(p.lines, a)
	}
}

// overloaded is the answer when a bound is reached.
func overloaded() *tunnel.Error {
	return &tunnel.Error{Code: framecodec.CodeOverloaded, Text: policy.ClientText(framecodec.CodeOverloaded)}
}
