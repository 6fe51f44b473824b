package testkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// SSHD is an OpenSSH server on a loopback address with keys and configuration
// of its own. The user who runs the test may log in with ClientKey.
type SSHD struct {
	Addr       string // host:port
	User       string
	ClientKey  string // file with the private key that is let in
	KnownHosts string // file that names the host key for every host
	process    *Process
}

const sshdConfig = `ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 1000
Subsystem sftp internal-sftp
`

// OpenSSHD starts a server whose files lie in dir. With n it listens in that
// network, else on the machine's loopback.
func OpenSSHD(dir string, n *Namespace) (*SSHD, error) {
	sshd, err := lookCommand("sshd") // sshd insists on an absolute path
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	s := &SSHD{User: me.Username, ClientKey: filepath.Join(dir, "client"), KnownHosts: filepath.Join(dir, "known_hosts")}
	if s.Addr, err = freeTCPIn(n); err != nil {
		return nil, err
	}
	config, err := s.writeFiles(dir)
	if err != nil {
		return nil, err
	}
	if me.Uid == "0" {
		// The folder of sshd's unprivileged child; Debian makes it when the service
		// starts, which is not what we do.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	cmd := commandIn(n, sshd, "-D", "-e", "-f", config)
	if s.process, err = startProcess("sshd", dir, cmd); err != nil {
		return nil, err
	}
	if err := WaitFor(10*time.Second, func() error { return s.greets(n) }); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// StartSSHD is OpenSSHD for a test, which is skipped where OpenSSH is missing.
func StartSSHD(t testing.TB, n *Namespace) *SSHD {
	t.Helper()
	NeedCommands(t, "sshd", "ssh", "ssh-keygen")
	s, err := OpenSSHD(t.TempDir(), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		s.process.logOnFailure(t)
	})
	return s
}

// Close ends the server and its sessions.
func (s *SSHD) Close() { s.process.Kill() }

// Log returns what the server has written so far.
func (s *SSHD) Log() string { return s.process.Log() }

// ClientOptions returns the options that make ssh and scp use our keys and
// nothing of the user's own.
func (s *SSHD) ClientOptions() []string {
	return []string{
		"-F", "none", "-i", s.ClientKey,
		"-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + s.KnownHosts, "-o", "GlobalKnownHostsFile=none", "-o", "LogLevel=ERROR",
	}
}

// writeFiles makes the keys and returns the path of the configuration.
func (s *SSHD) writeFiles(dir string) (string, error) {
	hostKey := filepath.Join(dir, "host")
	for _, file := range []string{hostKey, s.ClientKey} {
		if err := run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testkit", "-f", file); err != nil {
			return "", err
		}
	}
	public, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		return "", err
	}
	config := filepath.Join(dir, "sshd_config")
	return config, errors.Join(
		os.WriteFile(s.KnownHosts, append([]byte("* "), public...), 0o600),
		os.WriteFile(config, fmt.Appendf(nil, sshdConfig, s.Addr, hostKey, s.ClientKey+".pub"), 0o600),
	)
}

// greets reports whether the server answers with its version.
func (s *SSHD) greets(n *Namespace) error {
	if err := s.process.ended(); err != nil {
		return err
	}
	c, err := dialIn(n, s.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "SSH-2.0-") {
		return fmt.Errorf("not an SSH server: %q", line)
	}
	return err
}

// freeTCPIn returns a loopback address with a free port, in n or outside.
func freeTCPIn(n *Namespace) (address string, err error) {
	if n == nil {
		return freeTCP()
	}
	err = n.Do(func() error {
		address, err = freeTCP()
		return err
	})
	return address, err
}

func dialIn(n *Namespace, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if n == nil {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
	return n.DialContext(ctx, "tcp", address)
}
