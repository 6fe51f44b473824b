//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// request is what the bench asks of the load process; answer is what it says.
// Both are lines of JSON, one at a time.
type request struct {
	Op        string        // target, ping, bulk, requests, behind, setup, hold, fill, probe, release
	Address   string        // of the tunnel's entry
	Direction string        // up: towards the target
	Count     int           // connections
	Window    time.Duration // measured time
	PIDs      []int         // processes whose processor time counts
}

type answer struct {
	Error          string
	Address        string        // target: where it listens
	Bytes          float64       // moved within the window
	BytesPerSecond float64       //
	Count          float64       // requests or connections within the window
	PerSecond      float64       //
	P50, P99       time.Duration //
	CPU            time.Duration // of PIDs within the window
}

// load is the handle of the load process.
type load struct {
	process
	requests io.WriteCloser
	answers  *bufio.Reader
}

func startLoad(n *testkit.Namespace, dir string) (*load, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := n.Command(self, "load")
	requests, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p, err := startProcess(cmd, dir, "load")
	if err != nil {
		return nil, err
	}
	return &load{process: p, requests: requests, answers: bufio.NewReader(answers)}, nil
}

// grace is what an exercise may take beside its window.
const grace = 60 * time.Second

// call asks for one exercise. After an error of the pipe or of ctx the process
// is of no use any more.
func (l *load) call(ctx context.Context, r request) (answer, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	if _, err := l.requests.Write(append(line, '\n')); err != nil {
		return answer{}, fmt.Errorf("load process: %w", err)
	}
	type reply struct {
		line []byte
		err  error
	}
	got := make(chan reply, 1)
	go func() { // ends with the answer, or with the process
		line, err := l.answers.ReadBytes('\n')
		got <- reply{line, err}
	}()
	timeout := time.NewTimer(r.Window + grace)
	defer timeout.Stop()
	select {
	case g := <-got:
		if g.err != nil {
			return answer{}, fmt.Errorf("load process: %w", g.err)
		}
		return decodeAnswer(g.line)
	case <-ctx.Done():
		l.kill()
		<-got
		return answer{}, ctx.Err()
	case <-timeout.C:
		l.kill()
		<-got
		return answer{}, fmt.Errorf("%s: the load process hangs", r.Op)
	}
}

func decodeAnswer(line []byte) (answer, error) {
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// serveLoad is the load process.
func serveLoad(in io.Reader, out io.Writer) error {
	// More than the soft limit: thousands of connections have both ends here.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // a refusal shows as failing connections
	}
	w := newWorker()
	defer w.close()
	lines := bufio.NewScanner(in)
	encoder := json.NewEncoder(out)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		a, err := w.do(r)
		if err != nil {
			a.Error = r.Op + ": " + err.Error()
		}
		if err := encoder.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}
