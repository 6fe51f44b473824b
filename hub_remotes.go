package culvert

import (
	"slices"
	"sync"
	"time"
)

// remoteTable holds the remotes that run. The zero value is empty and ready;
// all methods are safe for concurrent use.
type remoteTable struct {
	mu   sync.Mutex
	list []*pooledRemote // guarded by mu
}

// use finds or makes a remote for each of a configuration's, and remembers them
// in env.running.
func (t *remoteTable) use(h *hub, env *environment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	env.running = make(map[string]*pooledRemote, len(env.remotes))
	for name, spec := range env.remotes {
		env.running[name] = t.findLocked(h, spec)
	}
}

func (t *remoteTable) findLocked(h *hub, spec *remoteSpec) *pooledRemote {
	for _, p := range t.list {
		if p.spec.name == spec.name && p.spec.equal(spec) {
			return p
		}
	}
	p := newPooledRemote(h, spec)
	t.list = append(t.list, p)
	return p
}

// keep ends the remotes that none of the configurations that are left wants:
// their streams may finish within timeouts.drain.
func (t *remoteTable) keep(h *hub, left []*environment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(p *pooledRemote) bool {
		wanted := slices.ContainsFunc(left, func(env *environment) bool { return env.running[p.spec.name] == p })
		if !wanted {
			drain := p.spec.timeouts.Drain
			if len(left) > 0 {
				drain = left[len(left)-1].timeouts.Drain
			}
			h.wg.Go(func() { p.end(time.Duration(drain)) })
		}
		return !wanted
	})
}

// all returns the remotes that run.
func (t *remoteTable) all() []*pooledRemote {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}

// closeAll ends all remotes with their streams and returns when they are gone.
func (t *remoteTable) closeAll() {
	t.mu.Lock()
	list := t.list
	t.list = nil
	t.mu.Unlock()
	var ends sync.WaitGroup
	for _, p := range list {
		ends.Go(func() { p.end(0) })
	}
	ends.Wait()
}
