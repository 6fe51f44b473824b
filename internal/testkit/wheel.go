package testkit

import (
	"bufio"
	"context"
	_ "embed" // the driver
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// WheelVersion is the release of keeper-pam-webrtc-rs on PyPI that set-up
// installs and the tests run.
const WheelVersion = "2.2.9"

//go:embed wheel_driver.py
var wheelDriver string

// Wheel is a process that runs the reference system (dialect 1), unchanged. One
// process can hold several tubes, listening and dialling. It slows down as it
// leaks, so measurements start a fresh one each. All methods are safe for
// concurrent use.
type Wheel struct {
	*Process
	requests io.WriteCloser
	reader   chan struct{} // closed when the reading goroutine has ended

	mu      sync.Mutex
	next    int                       // guarded by mu: number of the last request
	waiting map[int]chan wheelMessage // guarded by mu
	events  []WheelEvent              // guarded by mu
	broken  error                     // guarded by mu: why no further answer will come
}

// WheelEvent is a signal of the wheel, such as kind connection_state_changed or
// channel_closed with data as JSON text.
type WheelEvent struct {
	Tube string `json:"tube_id"`
	Kind string `json:"kind"`
	Data string `json:"data"`
}

type wheelMessage struct {
	ID     int `json:"id"`
	Result struct {
		Tube   string `json:"tube"`
		SDP    string `json:"sdp"`
		Listen string `json:"listen"`
		Status string `json:"status"`
	} `json:"result"`
	Error string      `json:"error"`
	Event *WheelEvent `json:"event"`
}

// wheelPython returns the interpreter in whose environment set-up has installed
// the wheel, or an error that says how to get it.
func wheelPython() (string, error) {
	dir, err := cacheDir("peers", "keeper-"+WheelVersion)
	if err != nil {
		return "", err
	}
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		return "", fmt.Errorf("the reference system's wheel %s is not installed: %w", WheelVersion, err)
	}
	return python, nil
}

// OpenWheel starts the reference system inside n, which must be a network of
// its own: the wheel ignores loopback and looks up STUN servers by name. Its
// files lie in dir.
func OpenWheel(dir string, n *Namespace) (*Wheel, error) {
	if n == nil {
		return nil, errors.New("the wheel runs in a namespace only")
	}
	python, err := wheelPython()
	if err != nil {
		return nil, err
	}
	cmd := n.Command(python, "-c", wheelDriver)
	requests, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Our own pipe and not StdoutPipe, which Wait closes before all was read.
	answers, childEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = childEnd
	p, err := startProcess("wheel", dir, cmd)
	if closed := childEnd.Close(); err != nil || closed != nil {
		return nil, errors.Join(err, closed, answers.Close())
	}
	w := &Wheel{Process: p, requests: requests, reader: make(chan struct{}), waiting: map[int]chan wheelMessage{}}
	go w.read(answers)
	return w, nil
}

// StartWheel is OpenWheel for a test, which is skipped where the wheel is not
// installed.
func StartWheel(t testing.TB, n *Namespace) *Wheel {
	t.Helper()
	if _, err := wheelPython(); err != nil {
		Missing(t, err.Error(), "make setup installs it")
	}
	w, err := OpenWheel(t.TempDir(), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		w.logOnFailure(t)
	})
	return w
}

// Close kills the process and waits until everything of it is released.
func (w *Wheel) Close() {
	w.Kill()
	<-w.reader
	_ = w.requests.Close() // already closed by the end of the process
}

// Events returns the signals that have come so far.
func (w *Wheel) Events() []WheelEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]WheelEvent(nil), w.events...)
}

// SetLogLevel sets the level of the wheel's own log (10 debug, 20 info), which
// is off at first.
func (w *Wheel) SetLogLevel(ctx context.Context, level int) error {
	_, err := w.call(ctx, "log", map[string]any{"level": level})
	return err
}

// read hands the answers out until the process closes its output.
func (w *Wheel) read(answers io.ReadCloser) {
	defer close(w.reader)
	defer answers.Close()
	lines := bufio.NewScanner(answers)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m wheelMessage
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			w.fail(fmt.Errorf("the wheel's driver said %q: %w", lines.Text(), err))
			continue
		}
		w.deliver(m)
	}
	w.fail(errors.Join(errors.New("the wheel's process has ended"), lines.Err()))
}

func (w *Wheel) deliver(m wheelMessage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.Event != nil {
		w.events = append(w.events, *m.Event)
		return
	}
	if c, ok := w.waiting[m.ID]; ok {
		delete(w.waiting, m.ID)
		c <- m // has room for it
	}
}

func (w *Wheel) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
	for id, c := range w.waiting {
		delete(w.waiting, id)
		close(c)
	}
}

// call sends a request and waits for its answer.
func (w *Wheel) call(ctx context.Context, op string, args map[string]any) (wheelMessage, error) {
	reply := make(chan wheelMessage, 1)
	id, err := w.send(op, args, reply)
	if err != nil {
		return wheelMessage{}, fmt.Errorf("wheel %s: %w", op, err)
	}
	select {
	case m, ok := <-reply:
		if !ok {
			return m, fmt.Errorf("wheel %s: no answer:\n%s", op, tail(w.Log(), 4<<10))
		}
		if m.Error != "" {
			return m, fmt.Errorf("wheel %s: %s", op, m.Error)
		}
		return m, nil
	case <-ctx.Done():
		w.mu.Lock()
		delete(w.waiting, id)
		w.mu.Unlock()
		return wheelMessage{}, fmt.Errorf("wheel %s: %w", op, ctx.Err())
	}
}

func (w *Wheel) send(op string, args map[string]any, reply chan wheelMessage) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return 0, w.broken
	}
	w.next++
	request := map[string]any{"id": w.next, "op": op}
	maps.Copy(request, args)
	line, err := json.Marshal(request)
	if err != nil {
		return 0, err
	}
	w.waiting[w.next] = reply
	// A line is far smaller than the pipe and the driver always reads on.
	if _, err := w.requests.Write(append(line, '\n')); err != nil {
		delete(w.waiting, w.next)
		return 0, err
	}
	return w.next, nil
}
