//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// process is a child of ours that dies with us; its error output is in a file.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func startProcess(cmd *exec.Cmd, dir, name string) (process, error) {
	p := process{cmd: cmd, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return p, err
	}
	defer log.Close() // the child has its own descriptor
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return p, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		// By Process and not by Cmd, which would close pipes that are still read.
		_, _ = cmd.Process.Wait()
	}()
	return p, nil
}

func (p process) pid() int { return p.cmd.Process.Pid }

func (p process) kill() {
	_ = p.cmd.Process.Kill() // it may be over
	<-p.done
}
