//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// openSplice starts two relays of plain TCP, one behind the other: what the same
// path costs without any tunnel.
func openSplice(_ context.Context, at place) (*peer, error) {
	first, second := fmt.Sprintf("127.0.0.1:%d", at.ports()), fmt.Sprintf("127.0.0.1:%d", at.ports())
	exit, err := startRelay(at, "exit", second, at.target)
	if err != nil {
		return nil, err
	}
	entry, err := startRelay(at, "entry", first, second)
	if err != nil {
		exit.stop()
		return nil, err
	}
	return &peer{Entry: first, entry: entry, exit: exit}, nil
}

func startRelay(at place, role, listen, to string) (end, error) {
	self, err := os.Executable()
	if err != nil {
		return end{}, err
	}
	p, err := startProcess(at.network.Command(self, "splice", listen, to), at.dir, role)
	if err != nil {
		return end{}, err
	}
	log := func() string { text, _ := os.ReadFile(p.log); return string(text) }
	return end{PID: p.pid(), done: p.done, stop: p.kill, log: log}, nil
}

// serveSplice is the relay: one goroutine for each direction of a connection,
// the kernel moves the bytes.
func serveSplice(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: bench splice LISTEN TO")
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go relay(c.(*net.TCPConn), args[1])
	}
}

func relay(near *net.TCPConn, to string) {
	defer near.Close()
	c, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	far := c.(*net.TCPConn)
	defer far.Close()
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
}
