package testkit

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestSSHDLetsOurKeyIn(t *testing.T) {
	for _, inside := range []bool{false, true} {
		name, n := "loopback", (*Namespace)(nil)
		if inside {
			name = "namespace"
		}
		t.Run(name, func(t *testing.T) {
			if inside {
				n = NewNamespace(t)
			}
			s := StartSSHD(t, n)
			host, port := splitHostPort(t, s.Addr)
			want := PayloadBytes(2, 100_000)
			args := append(s.ClientOptions(), "-p", port, s.User+"@"+host, "cat")
			ssh := must[string](t)(exec.LookPath("ssh"))
			cmd := commandIn(n, ssh, args...)
			cmd.Stdin = bytes.NewReader(want)
			var problems bytes.Buffer
			cmd.Stderr = &problems
			got, err := cmd.Output()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("ssh cat: %v, %d bytes of %d back: %s", err, len(got), len(want), problems.String())
			}
		})
	}
}

func TestSSHDRefusesAStrangersKey(t *testing.T) {
	s := StartSSHD(t, nil)
	other := filepath.Join(t.TempDir(), "other")
	if err := run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, s.ClientKey); err != nil {
		t.Fatal(err)
	}
	host, port := splitHostPort(t, s.Addr)
	out, err := exec.Command("ssh", append(s.ClientOptions(), "-p", port, s.User+"@"+host, "true")...).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("Permission denied")) {
		t.Errorf("a key that is not listed: %v: %s", err, out)
	}
}
