package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvertgate/culvert/socks5"
)

// TestExample is README's first run: Caddyfile.example, and a request by each of
// the two ways through the tunnel.
func TestExample(t *testing.T) {
	raw, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	start(t, strings.Replace(string(raw), "auto_https off", "admin localhost:2999\n\tpersist_config off\n\tauto_https off", 1))
	proxy := &url.URL{Scheme: "socks5h", Host: "127.0.0.1:1080"}
	for name, test := range map[string]struct {
		transport *http.Transport
		url       string
	}{
		"socks5":       {&http.Transport{Proxy: http.ProxyURL(proxy)}, "http://127.0.0.1:8081/"},
		"named target": {&http.Transport{}, "http://127.0.0.1:8022/"},
	} {
		t.Run(name, func(t *testing.T) {
			before := bytesOut(t)
			client := &http.Client{Transport: test.transport, Timeout: long}
			res, err := client.Get(test.url)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			client.CloseIdleConnections()
			if err != nil || res.StatusCode != 200 || len(body) == 0 {
				t.Fatalf("status %d, body %q, %v", res.StatusCode, body, err)
			}
			if rise := bytesOut(t) - before; rise < uint64(len(body)) {
				t.Errorf("the gateway sent %d bytes through tunnels, the body has %d", rise, len(body))
			}
		})
	}
}

// bytesOut sums what the gateway's tunnels have sent.
func bytesOut(t *testing.T) uint64 {
	t.Helper()
	var sum uint64
	for _, one := range tunnels(t, "gateway") {
		sum += one.BytesOut
	}
	return sum
}

// halfClose sends all, ends its direction, and wants all back and then the end.
func halfClose(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(long)); err != nil {
		return err
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		failed <- err
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-failed); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d bytes came back, want the %d that were sent", len(got), len(sent))
	}
	return nil
}

// TestEntries: each kind of connection that layer4 can hand us carries a stream
// with half close.
func TestEntries(t *testing.T) {
	echo := echoServer(t)
	cert, key := certificate(t, "localhost")
	layer4 := func(server string) string { return "\tlayer4 {\n\t\t" + entry1 + " {\n" + server + "\n\t\t}\n\t}" }
	plain := func(t *testing.T) net.Conn {
		c, err := net.Dial("tcp", entry1)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	secured := func(t *testing.T) net.Conn {
		c, err := tls.Dial("tcp", entry1, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, test := range map[string]struct {
		server string
		dial   func(t *testing.T) net.Conn
	}{
		"plain TCP, named target": {"route {\nwebrtc_tunnel here echo\n}", plain},
		"plain TCP, address":      {"route {\nwebrtc_tunnel here tcp/" + echo + "\n}", plain},
		"prefetched by a matcher": {"@x regexp ^0123 4\nroute @x {\nwebrtc_tunnel here echo\n}", plain},
		"behind TLS":              {"route {\ntls\nwebrtc_tunnel here echo\n}", secured},
	} {
		t.Run(name, func(t *testing.T) {
			config := global(remoteHere+"\n", layer4(test.server)) + site("target echo tcp/"+echo+"\ndynamic {\nallow tcp/"+echo+"\n}")
			start(t, config+"\nhttps://localhost:9443 {\n\ttls "+cert+" "+key+"\n}\n")
			c := test.dial(t)
			defer c.Close()
			if err := halfClose(c); err != nil {
				t.Error(err)
			}
			eventually(t, func() error {
				for _, side := range []string{"gateway", "client"} {
					for _, one := range tunnels(t, side) {
						if one.Streams != 0 {
							return fmt.Errorf("%s: %d streams are left", side, one.Streams)
						}
					}
				}
				return nil
			})
		})
	}
}

// socksRequest does a SOCKS5 handshake by hand and returns the reply.
func socksRequest(t *testing.T, host string, port uint16) (net.Conn, socks5.Reply) {
	t.Helper()
	c, err := net.Dial("tcp", socks1)
	if err != nil {
		t.Fatal(err)
	}
	return c, socksHandshake(t, c, host, port)
}

// socksHandshake does it on a connection, which is closed with the test.
func socksHandshake(t *testing.T, c net.Conn, host string, port uint16) socks5.Reply {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * long)); err != nil {
		t.Fatal(err)
	}
	request := []byte{5, 1, 0, 5, 1, 0}
	if ip, err := netip.ParseAddr(host); err != nil {
		request = append(append(request, 3, byte(len(host))), host...)
	} else if ip.Is4() {
		request = append(append(request, 1), ip.AsSlice()...)
	} else {
		request = append(append(request, 4), ip.AsSlice()...)
	}
	if _, err := c.Write(binary.BigEndian.AppendUint16(request, port)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(answer[:3], []byte{5, 0, 5}) || !bytes.Equal(answer[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("answer % x is not that of RFC 1928", answer)
	}
	return socks5.Reply(answer[3])
}

// TestSOCKS has the reply for each outcome of an open; names reach the gateway
// as names.
func TestSOCKS(t *testing.T) {
	echo := netip.MustParseAddrPort(echoServer(t))
	start(t, global(remoteHere, entries("echo"))+site(`target echo tcp/`+echo.String()+`
		dynamic {
			allow tcp/127.0.0.0/8:1-65535
			allow tcp/*.invalid:80
			deny denied.example
			deny 127.0.0.13
		}`))
	for name, test := range map[string]struct {
		host string
		port uint16
		want socks5.Reply
	}{
		"allowed":              {"127.0.0.1", echo.Port(), socks5.Succeeded},
		"nobody listens":       {"127.0.0.1", 1, socks5.ConnectionRefused},
		"denied address":       {"127.0.0.13", echo.Port(), socks5.NotAllowed},
		"denied name":          {"denied.example", 80, socks5.NotAllowed},
		"no rule":              {"192.0.2.1", 80, socks5.NotAllowed},
		"no rule, IPv6":        {"2001:db8::1", 80, socks5.NotAllowed},
		"the admin endpoint":   {"127.0.0.1", 2999, socks5.NotAllowed},
		"the SOCKS port":       {"127.0.0.1", 9081, socks5.NotAllowed},
		"name that is nowhere": {"nowhere.invalid", 80, socks5.HostUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			c, reply := socksRequest(t, test.host, test.port)
			if reply != test.want {
				t.Fatalf("reply %v, want %v", reply, test.want)
			}
			if reply == socks5.Succeeded {
				if err := halfClose(c); err != nil {
					t.Error(err)
				}
				return
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("the connection goes on behind a refusal")
			}
		})
	}
}

// TestGatewayUnreachable: a connection is reset and a SOCKS client told, within
// the time-outs.
func TestGatewayUnreachable(t *testing.T) {
	gone := serve(t, func(c net.Conn) { c.Close() })
	start(t, global("\t\ttimeouts {\n\t\t\tconnect 2s\n\t\t\tdial 2s\n\t\t}\n\t\tremote here http://"+gone+"/tunnel", entries("echo")))
	began := time.Now()
	if err := readOne(entry1, began.Add(2*long)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if _, reply := socksRequest(t, "127.0.0.1", 80); reply == socks5.Succeeded {
		t.Error("success without a gateway")
	}
	if took := time.Since(began); took > 2*long {
		t.Errorf("it took %v", took)
	}
	var health struct {
		Status  string
		Reasons []string
	}
	if status := admin(t, http.MethodGet, "/webrtc_tunnel/health", "", &health); status != 200 || health.Status != "degraded" || len(health.Reasons) != 1 {
		t.Errorf("health: %d %+v, want 200 degraded because of the remote", status, health)
	}
}

// readOne connects and reads a byte. The reset may come as early as that the
// connecting itself fails.
func readOne(address string, deadline time.Time) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// certificate writes a self-signed certificate for a name and returns its files.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", public), write("key.pem", "PRIVATE KEY", encoded)
}
