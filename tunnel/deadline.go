package tunnel

import (
	"sync"
	"time"
)

// deadline is a time after which its channel is closed. The zero value is not
// usable; all methods are safe for concurrent use.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // closed when the time is past; never nil
}

func newDeadline() deadline { return deadline{expired: make(chan struct{})} }

// set moves the deadline; the zero time means none. It wakes those who wait for
// an earlier one only by time itself: they hold the channel of before.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // the timer's function is closing it, or has
	}
	d.timer = nil
	past := isClosed(d.expired)
	if t.IsZero() {
		if past {
			d.expired = make(chan struct{})
		}
		return
	}
	left := time.Until(t)
	if left <= 0 {
		if !past {
			close(d.expired)
		}
		return
	}
	if past {
		d.expired = make(chan struct{})
	}
	expired := d.expired
	d.timer = time.AfterFunc(left, func() { close(expired) })
}

// wait returns the channel that is closed when the deadline has passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

// stop lets go of the timer.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && d.timer.Stop() {
		d.timer = nil
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
