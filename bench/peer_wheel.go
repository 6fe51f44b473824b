//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/culvertgate/culvert/internal/testkit"
)

// openWheel connects two processes of the reference system, tube to tube.
func openWheel(ctx context.Context, at place) (*peer, error) {
	near, err := startWheel(at, "entry")
	if err != nil {
		return nil, err
	}
	far, err := startWheel(at, "exit")
	if err != nil {
		near.Close()
		return nil, err
	}
	p := &peer{
		entry: end{PID: near.PID(), done: near.Done(), stop: near.Close, log: near.Log},
		exit:  end{PID: far.PID(), done: far.Done(), stop: far.Close, log: far.Log},
	}
	if p.Entry, err = connectTubes(ctx, near, far, at.target); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func startWheel(at place, role string) (*testkit.Wheel, error) {
	dir := filepath.Join(at.dir, role)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return testkit.OpenWheel(dir, at.network)
}

func connectTubes(ctx context.Context, near, far *testkit.Wheel, target string) (string, error) {
	tube, offer, err := near.Listen(ctx, testkit.TubeSettings{Listen: "127.0.0.1:0"})
	if err != nil {
		return "", err
	}
	other, answer, err := far.Dial(ctx, testkit.TubeSettings{Target: target}, offer)
	if err != nil {
		return "", err
	}
	if err := tube.Accept(ctx, answer); err != nil {
		return "", err
	}
	if err := tube.Ready(ctx); err != nil {
		return "", err
	}
	return tube.ListenAddr, other.Ready(ctx)
}
