//go:build unix

package culvert

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/mholt/caddy-l4/layer4"
	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// fewDescriptors lowers the process's limit, so that fewer are free than entries
// leave to others, until the function that it returns is called.
func fewDescriptors(t *testing.T, conn syscall.Conn) (restore func()) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	if err := raw.Control(func(fd uintptr) { next, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(next)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	set(&few.Cur, uint64(next)+leastReserve/2)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}
}

// set sets a limit, which is signed on FreeBSD.
func set[T uint64 | int64](limit *T, n uint64) { *limit = T(n) }

// TestEntriesLeaveDescriptors: a connection is reset when few are left, whatever
// layer4's handlers before the entry have wrapped it in.
func TestEntriesLeaveDescriptors(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	withTLS := func(t *testing.T, client net.Conn, cx *layer4.Connection) (net.Conn, *layer4.Connection) {
		t.Helper()
		outer := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		shaken := make(chan error, 1)
		go func() { shaken <- outer.Handshake() }()
		inner := tls.Server(cx, certificate.TLS)
		if err := errors.Join(inner.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		return outer, cx.Wrap(inner)
	}
	withHeader := func(t *testing.T, client net.Conn, cx *layer4.Connection) (net.Conn, *layer4.Connection) {
		t.Helper()
		if _, err := io.WriteString(client, "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n"); err != nil {
			t.Fatal(err)
		}
		return client, cx.Wrap(proxyproto.NewConn(cx))
	}
	h := newHub(listenAddress{"udp", "127.0.0.1:0"})
	env := testEnvironment(t)
	if err := h.attach(env); err != nil {
		t.Fatal(err)
	}
	named := &Entry{Remote: "office", hub: h, env: env, target: tunnel.Target{Kind: tunnel.KindNamed, Host: "ssh"}}
	for name, wrap := range map[string]func(*testing.T, net.Conn, *layer4.Connection) (net.Conn, *layer4.Connection){
		"plain": func(_ *testing.T, client net.Conn, cx *layer4.Connection) (net.Conn, *layer4.Connection) {
			return client, cx
		},
		"tls":            withTLS,
		"proxy protocol": withHeader,
		"tls behind proxy protocol": func(t *testing.T, client net.Conn, cx *layer4.Connection) (net.Conn, *layer4.Connection) {
			t.Helper()
			client, cx = withHeader(t, client, cx)
			return withTLS(t, client, cx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, raw := accepted(t)
			client, cx := wrap(t, client, layer4.WrapConnection(raw, nil, zap.NewNop()))
			counter := processMetrics.streamsOpened.WithLabelValues(sideClient, kindLabel(tunnel.KindNamed), framecodec.CodeOverloaded.String())
			before := testutil.ToFloat64(counter)
			restore := fewDescriptors(t, raw.(syscall.Conn))
			err := named.Handle(cx, nil)
			restore()
			_ = raw.Close() // as layer4 does
			if err != nil {
				t.Error(err)
			}
			if n := testutil.ToFloat64(counter) - before; n != 1 {
				t.Errorf("%v were refused for want of descriptors, want 1", n)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client read %v, want a reset", err)
			}
		})
	}
	h.detach(env)
	if err := h.Destruct(); err != nil {
		t.Error(err)
	}
}
