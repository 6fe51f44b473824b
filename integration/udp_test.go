package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/rtc"
)

// udpEntry is where the UDP listeners of entries are.
const udpEntry = "127.0.0.1:9053"

// datagramChannel is the companion of a session's channel.
var datagramChannel = rtc.ChannelSpec{Label: "datagrams", Protocol: "culvert.2.datagrams", Unordered: true}

// udpConfig is a gateway and an entry that leads to target through it.
func udpConfig(target, options string) string {
	return global(remoteHere, "\tlayer4 {\n\t\tudp/"+udpEntry+" {\n\t\t\troute {\n\t\t\t\twebrtc_tunnel here "+target+"\n\t\t\t}\n\t\t}\n\t}") + site(options)
}

// serveUDP answers each datagram of a free port until the test ends; a nil answer
// is none.
func serveUDP(t *testing.T, answer func([]byte) []byte) (address string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for buf := make([]byte, 65536); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if a := answer(buf[:n]); a != nil {
				_, _ = c.WriteTo(a, from)
			}
		}
	})
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return c.LocalAddr().String()
}

func echoUDP(t *testing.T) string {
	t.Helper()
	return serveUDP(t, func(p []byte) []byte { return p })
}

// askUDP sends data until the same comes back: the first datagrams of a client may
// be lost while the flow is being opened.
func askUDP(c net.Conn, data []byte) error {
	buf := make([]byte, 65536)
	for range 15 {
		if _, err := c.Write(data); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		switch {
		case err == nil && bytes.Equal(buf[:n], data):
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
	return fmt.Errorf("%d bytes did not come back", len(data))
}

func dialUDP(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", udpEntry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestUDPEntry: a UDP listener leads to a named datagram target and to an address
// that a rule allows, each client address by a flow of its own.
func TestUDPEntry(t *testing.T) {
	echo := echoUDP(t)
	for name, target := range map[string]string{"named": "echo", "address": "udp/" + echo} {
		t.Run(name, func(t *testing.T) {
			start(t, udpConfig(target, "target echo udp/"+echo+"\ndynamic {\nallow udp/127.0.0.0/8:1-65535\n}"))
			var wg sync.WaitGroup
			for i := range 8 {
				c := dialUDP(t)
				wg.Go(func() {
					for _, size := range []int{1, 512, 1472, 9000} {
						data := make([]byte, size)
						_, _ = rand.Read(data)
						if err := askUDP(c, data); err != nil {
							t.Errorf("client %d, %d bytes: %v", i, size, err)
						}
					}
				})
			}
			wg.Wait()
			gateway := tunnels(t, "gateway")
			if len(gateway) != 1 || gateway[0].Streams != 8 {
				t.Fatalf("the gateway has %+v, want one tunnel with 8 flows", gateway)
			}
			var one struct {
				StreamList []struct {
					ID   uint32
					Flow *tunnel.FlowInfo
				} `json:"stream_list"`
			}
			admin(t, http.MethodGet, "/webrtc_tunnel/tunnels/"+gateway[0].ID, "", &one)
			if len(one.StreamList) != 8 || one.StreamList[0].Flow == nil || one.StreamList[0].Flow.DatagramsIn < 4 {
				t.Errorf("the gateway shows %+v", one)
			}
			// A flow that is killed is gone on both sides; the next datagram opens another.
			last := dialUDP(t)
			if err := askUDP(last, []byte("before")); err != nil {
				t.Fatal(err)
			}
			for _, st := range one.StreamList {
				admin(t, http.MethodDelete, fmt.Sprintf("/webrtc_tunnel/tunnels/%s/streams/%d", gateway[0].ID, st.ID), "", nil)
			}
			eventually(t, func() error {
				if n := tunnels(t, "client")[0].Streams; n != 1 {
					return fmt.Errorf("the client has %d flows", n)
				}
				return nil
			})
			if err := askUDP(last, []byte("after")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUDPIdle: a flow without datagrams ends.
func TestUDPIdle(t *testing.T) {
	config := udpConfig("echo", "target echo udp/"+echoUDP(t))
	start(t, strings.Replace(config, "\t\tremote here", "\t\ttimeouts {\n\t\t\tudp_idle 1s\n\t\t}\n\t\tremote here", 1))
	c := dialUDP(t)
	if err := askUDP(c, []byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := tunnels(t, "gateway")[0].Streams; n != 0 {
			return fmt.Errorf("%d flows", n)
		}
		return nil
	})
	if err := askUDP(c, []byte("again")); err != nil {
		t.Error(err)
	}
}

// TestUDPRefusals: the codes of flows that the gateway does not open, and of a
// target that is not there.
func TestUDPRefusals(t *testing.T) {
	echo := netip.MustParseAddrPort(echoUDP(t))
	tcp := echoServer(t)
	start(t, global("", "")+site(`target echo udp/`+echo.String()+`
		target stream tcp/`+tcp+`
		target gone udp/127.0.0.1:1
		dynamic {
			allow udp/127.0.0.0/8:1-65535
			allow tcp/127.0.0.0/8:1
			deny 127.0.0.13
		}`))
	p := connect(t, siteURL, nil)
	for _, test := range []struct {
		name   string
		target tunnel.Target
		want   framecodec.Code
	}{
		{"named", tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "echo"}, framecodec.CodeNormal},
		{"address", tunnel.Target{Kind: tunnel.KindUDP, Host: "127.0.0.1", Port: echo.Port()}, framecodec.CodeNormal},
		{"unknown", tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "nope"}, framecodec.CodeUnknownTarget},
		{"a stream target", tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "stream"}, framecodec.CodeUnknownTarget},
		{"a datagram target as a stream", tunnel.Target{Kind: tunnel.KindNamed, Host: "echo"}, framecodec.CodeUnknownTarget},
		{"denied", tunnel.Target{Kind: tunnel.KindUDP, Host: "127.0.0.13", Port: echo.Port()}, framecodec.CodeNotAllowed},
		{"no rule", tunnel.Target{Kind: tunnel.KindUDP, Host: "192.0.2.1", Port: 53}, framecodec.CodeNotAllowed},
		{"our own socket", tunnel.Target{Kind: tunnel.KindUDP, Host: "127.0.0.1", Port: 9478}, framecodec.CodeNotAllowed},
		{"HTTP/3 of the endpoint", tunnel.Target{Kind: tunnel.KindUDP, Host: "127.0.0.1", Port: 9080}, framecodec.CodeNotAllowed},
		{"a port that only TCP rules allow", tunnel.Target{Kind: tunnel.KindTCP, Host: "127.0.0.1", Port: echo.Port()}, framecodec.CodeNotAllowed},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), long)
			defer cancel()
			conn, ep := tunnel.NewDatagramConn(tunnel.Addr{}, tunnel.Addr{})
			_, err := p.session.Open(ctx, test.target, ep)
			if tunnel.CodeOf(err) != test.want {
				t.Errorf("%v, want %v", err, test.want)
			}
			_ = conn.Close()
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		if err := p.rtc.OpenChannel(datagramChannel); err != nil {
			t.Fatal(err)
		}
		conn, ep := tunnel.NewDatagramConn(tunnel.Addr{}, tunnel.Addr{})
		if _, err := p.session.Open(ctx, tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "gone"}, ep); err != nil {
			t.Fatal(err)
		}
		err := askUDP(conn, []byte("hello"))
		if tunnel.CodeOf(err) != framecodec.CodeRefused {
			t.Errorf("%v, want refused: ICMP said so", err)
		}
	})
}

// TestDNSThroughTunnel: the resolver of Go asks a name server behind the gateway.
func TestDNSThroughTunnel(t *testing.T) {
	server := serveUDP(t, func(query []byte) []byte {
		var m dnsmessage.Message
		if m.Unpack(query) != nil || len(m.Questions) != 1 {
			return nil
		}
		m.Response, m.Additionals = true, nil
		if m.Questions[0].Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}},
			}}
		}
		answer, _ := m.Pack()
		return answer
	})
	start(t, udpConfig("dns", "target dns udp/"+server))
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", udpEntry)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*long)
	defer cancel()
	for i := range 20 {
		got, err := resolver.LookupIPAddr(ctx, fmt.Sprintf("host%d.example.", i))
		if err != nil || len(got) != 1 || got[0].String() != "192.0.2.7" {
			t.Fatalf("lookup %d: %v, %v", i, got, err)
		}
	}
}

// TestQUICThroughTunnel: a QUIC connection lives inside a flow, and what goes
// through it is byte-exact.
func TestQUICThroughTunnel(t *testing.T) {
	cert, key := certificate(t, "quic.example")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"echo"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			wg.Go(func() {
				if s, err := conn.AcceptStream(context.Background()); err == nil {
					_, _ = io.Copy(s, s)
					_ = s.Close()
				}
				<-conn.Context().Done()
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	start(t, udpConfig("quic", "target quic udp/"+l.Addr().String()))
	ctx, cancel := context.WithTimeout(t.Context(), 4*long)
	defer cancel()
	conn, err := quic.DialAddr(ctx, udpEntry, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"echo"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 4<<20)
	_, _ = rand.Read(data)
	wg.Go(func() {
		_, _ = s.Write(data)
		_ = s.Close()
	})
	_ = s.SetReadDeadline(time.Now().Add(4 * long))
	got, err := io.ReadAll(s)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(data), err)
	}
	_ = conn.CloseWithError(0, "")
}

// TestDatagramsCountAsMemory: what waits at entries for a gateway that does not answer
// is held to the memory that all have.
func TestDatagramsCountAsMemory(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and that is all
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const limit = 4 << 20
	start(t, global("\t\tlimits {\n\t\t\tmemory 4MiB\n\t\t}\n\t\tremote here http://"+l.Addr().String()+"/tunnel\n",
		"\tlayer4 {\n\t\t"+socks1+" {\n\t\t\troute {\n\t\t\t\twebrtc_tunnel here socks5\n\t\t\t}\n\t\t}\n\t}"))
	used := func() float64 {
		_, values := scrape(t)
		return values["memory_budget_bytes"]
	}
	var ends []net.Conn
	for range 2 { // of 256 destinations each: 30 MB in all
		c := dialSOCKS(t)
		ends = append(ends, c)
		say(t, c, "\x05\x01\x00", "\x05\x00")
		u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(associate(t, c)))
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		for i := range 256 {
			if _, err := u.Write(datagramTo(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1000+i)), strings.Repeat("x", 60_000))); err != nil {
				t.Fatal(err)
			}
			if i%4 == 0 {
				time.Sleep(time.Millisecond) // a socket's buffer holds few of them
			}
		}
	}
	eventually(t, func() error {
		if n := used(); n < limit/2 || n > limit {
			return fmt.Errorf("%v bytes of %d count", n, limit)
		}
		return nil
	})
	for _, c := range ends {
		c.Close()
	}
	eventually(t, func() error {
		if n := used(); n != 0 {
			return fmt.Errorf("%v bytes are left behind the end of all", n)
		}
		return nil
	})
}

// TestBytesPerDayOfDatagrams: datagrams of both directions count, and the flow ends
// with the quota.
func TestBytesPerDayOfDatagrams(t *testing.T) {
	start(t, kept(t.TempDir(), "target echo udp/"+echoUDP(t)+"\nlimits {\nbytes_per_day 1MiB\n}"))
	alice := connect(t, siteURL, user("alice"))
	if err := alice.rtc.OpenChannel(datagramChannel); err != nil {
		t.Fatal(err)
	}
	open := func() (*tunnel.DatagramConn, error) {
		conn, ep := tunnel.NewDatagramConn(tunnel.Addr{}, tunnel.Addr{})
		_, err := alice.session.Open(t.Context(), tunnel.Target{Kind: tunnel.KindNamedDatagram, Host: "echo"}, ep)
		return conn, err
	}
	conn, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 1<<10)
	back := 0
	for began := time.Now(); ; {
		if time.Since(began) > long {
			t.Fatalf("%d KiB have come back, and the flow goes on", back>>10)
		}
		if _, err = conn.Write(buf); err != nil {
			break
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err = conn.Read(buf); err == nil {
			back += len(buf)
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	wantCode(t, err, framecodec.CodeQuotaExceeded)
	// The ledger looks once a second.
	if back < 512<<10 {
		t.Errorf("the flow ended after %d KiB each way of 1,024 both ways", back>>10)
	}
	if _, err := open(); tunnel.CodeOf(err) != framecodec.CodeQuotaExceeded {
		t.Errorf("another flow: %v", err)
	}
}
