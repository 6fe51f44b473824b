package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/socks5"
)

// socksConfig is a gateway that allows all of loopback, and a SOCKS entry.
func socksConfig(options string) string {
	return global(remoteHere, "\tlayer4 {\n\t\t"+socks1+" {\n\t\t\troute {\n\t\t\t\twebrtc_tunnel here {\n\t\t\t\t\tsocks5 {\n"+options+"\n\t\t\t\t\t}\n\t\t\t\t}\n\t\t\t}\n\t\t}\n\t}") +
		site("dynamic {\nallow tcp/127.0.0.0/8:1-65535\nallow udp/127.0.0.0/8:1-65535\ndeny 127.0.0.13\n}")
}

func dialSOCKS(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", socks1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(long))
	return c
}

// say sends what a client sends and wants an answer of the server's.
func say(t *testing.T, c net.Conn, text, want string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

// associate asks for UDP ASSOCIATE and returns where to send to.
func associate(t *testing.T, c net.Conn) netip.AddrPort {
	t.Helper()
	if _, err := io.WriteString(c, "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 10)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer[:4]) != "\x05\x00\x00\x01" {
		t.Fatalf("answer % x, %v", answer, err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[4:8])), binary.BigEndian.Uint16(answer[8:]))
}

// datagramTo is data with the header for a destination.
func datagramTo(to netip.AddrPort, data string) []byte {
	b := append([]byte{0, 0, 0, 1}, to.Addr().AsSlice()...)
	return append(binary.BigEndian.AppendUint16(b, to.Port()), data...)
}

// TestSOCKSUsers: with users a password is wanted, and a wrong one is answered
// slowly and counted.
func TestSOCKSUsers(t *testing.T) {
	t.Setenv("CULVERT_TEST_PASSWORD", "correct horse")
	echo := netip.MustParseAddrPort(echoServer(t))
	start(t, socksConfig("user alice {env.CULVERT_TEST_PASSWORD}\nuser bob battery"))
	connectEcho := func(c net.Conn) {
		t.Helper()
		say(t, c, "\x05\x01\x00"+string(datagramTo(echo, "")[3:]), "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
		if err := halfClose(c); err != nil {
			t.Error(err)
		}
	}
	for user, password := range map[string]string{"alice": "correct horse", "bob": "battery"} {
		c := dialSOCKS(t)
		say(t, c, "\x05\x02\x00\x02", "\x05\x02")
		say(t, c, "\x01"+string(rune(len(user)))+user+string(rune(len(password)))+password, "\x01\x00")
		connectEcho(c)
	}
	for name, text := range map[string]string{
		"wrong password":  "\x01\x05alice\x07battery",
		"another's":       "\x01\x03bob\x0dcorrect horse",
		"unknown user":    "\x01\x05carol\x07battery",
		"the placeholder": "\x01\x05alice\x1b{env.CULVERT_TEST_PASSWORD}",
	} {
		c := dialSOCKS(t)
		say(t, c, "\x05\x01\x02", "\x05\x02")
		began := time.Now()
		say(t, c, text, "\x01\x01")
		if took := time.Since(began); took < 900*time.Millisecond {
			t.Errorf("%s: answered after %v", name, took)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v, want the end", name, err)
		}
	}
	c := dialSOCKS(t)
	say(t, c, "\x05\x01\x00", "\x05\xff")
	if _, values := scrape(t); values["socks_auth_failures_total"] != 4 {
		t.Error("four failures are not counted")
	}
}

// TestSOCKSAssociate: datagrams to several destinations through one association,
// each with the answer's header; strangers, fragments and what policy refuses are
// dropped, and all ends with the TCP connection.
func TestSOCKSAssociate(t *testing.T) {
	one, two := netip.MustParseAddrPort(echoUDP(t)), netip.MustParseAddrPort(echoUDP(t))
	start(t, socksConfig(""))
	c := dialSOCKS(t)
	say(t, c, "\x05\x01\x00", "\x05\x00")
	relay := associate(t, c)
	if !relay.Addr().IsLoopback() || relay.Port() == 0 {
		t.Fatalf("told to send to %v", relay)
	}
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for i := range 20 {
		for _, to := range []netip.AddrPort{one, two} {
			if err := askUDP(u, datagramTo(to, fmt.Sprint("datagram ", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	gateway := tunnels(t, "gateway")
	if len(gateway) != 1 || gateway[0].Streams != 2 {
		t.Fatalf("the gateway has %+v, want two flows", gateway)
	}
	// None of these comes back, nor opens a flow that stays.
	silent := func(name string, from net.Conn, p []byte) {
		t.Helper()
		if _, err := from.Write(p); err != nil {
			t.Fatal(err)
		}
		_ = from.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := from.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	stranger, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	silent("a stranger's", stranger, datagramTo(one, "x"))
	fragment := datagramTo(one, "x")
	fragment[2] = 1
	silent("a fragment", u, fragment)
	silent("garbage", u, []byte("garbage"))
	silent("refused by policy", u, datagramTo(netip.MustParseAddrPort("127.0.0.13:53"), "x"))
	silent("our own socket", u, datagramTo(netip.MustParseAddrPort(udpAddr), "x"))
	if err := askUDP(u, datagramTo(one, "still")); err != nil {
		t.Error(err)
	}
	c.Close()
	eventually(t, func() error {
		if n := tunnels(t, "gateway")[0].Streams; n != 0 {
			return fmt.Errorf("%d flows behind the end of the association", n)
		}
		return nil
	})
	_, _ = u.Write(datagramTo(one, "late")) // nobody listens: ICMP says so
	_ = u.SetReadDeadline(time.Now().Add(long))
	if _, err := u.Read(make([]byte, 10)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestSOCKSRefusals: BIND and clients of other protocols.
func TestSOCKSRefusals(t *testing.T) {
	start(t, socksConfig(""))
	c := dialSOCKS(t)
	say(t, c, "\x05\x01\x00", "\x05\x00")
	say(t, c, "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05"+string(rune(socks5.CommandNotSupported))+"\x00\x01\x00\x00\x00\x00\x00\x00")
	for _, text := range []string{"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "GET http://a.io/ HTTP/1.1\r\n\r\n"} {
		c := dialSOCKS(t)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: %d bytes, %v; want an end at once", text[:4], n, err)
		}
	}
}

// TestSOCKSAssociateEnds: an association goes on over a reload that still has its entry
// and its user, and ends, with its TCP connection, with one that has not.
func TestSOCKSAssociateEnds(t *testing.T) {
	one, two := netip.MustParseAddrPort(echoUDP(t)), netip.MustParseAddrPort(echoUDP(t))
	withEntry := socksConfig("user alice correcthorse\nuser bob battery")
	for name, next := range map[string]string{
		"no user":          socksConfig("user bob battery"),
		"another password": socksConfig("user alice battery\nuser bob battery"),
		"no entry":         global(remoteHere, "") + site("dynamic {\nallow udp/127.0.0.0/8:1-65535\n}"),
		"no app":           bare,
	} {
		t.Run(name, func(t *testing.T) {
			start(t, withEntry)
			c := dialSOCKS(t)
			say(t, c, "\x05\x01\x02", "\x05\x02")
			say(t, c, "\x01\x05alice\x0ccorrecthorse", "\x01\x00")
			relay := associate(t, c)
			u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			if err := askUDP(u, datagramTo(one, "hi")); err != nil {
				t.Fatal(err)
			}
			if err := load(strings.Replace(withEntry, "user bob battery", "user carol battery", 1)); err != nil {
				t.Fatal(err)
			}
			for _, to := range []netip.AddrPort{one, two} {
				if err := askUDP(u, datagramTo(to, "still")); err != nil {
					t.Errorf("behind a reload that concerns others: %v", err)
				}
			}
			if err := load(next); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the TCP connection is still there: %v", err)
			}
			eventually(t, func() error { // ICMP says so
				_, _ = u.Write(datagramTo(two, "late"))
				_ = u.SetReadDeadline(time.Now().Add(time.Second))
				if n, err := u.Read(make([]byte, 100)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					return fmt.Errorf("the socket is still there: %d bytes, %s", n, fmt.Sprint(err))
				}
				return nil
			})
		})
	}
}
