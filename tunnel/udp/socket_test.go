package udp

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// home is where this process's sockets are: on Linux a loopback address of its
// own, so that nothing arrives there that another test's process still sends to
// a port which was its peer's a moment ago and now is ours.
var home = func() net.IP {
	if runtime.GOOS != "linux" {
		return net.IPv4(127, 0, 0, 1)
	}
	pid := os.Getpid()
	return net.IPv4(127, 0x80|byte(pid>>16), byte(pid>>8), byte(pid)).To4()
}()

// anyPort is a port of home that the kernel chooses.
var anyPort = net.JoinHostPort(home.String(), "0")

func listen(t *testing.T, network, address string, cfg Config) *Socket {
	t.Helper()
	s, err := Listen(context.Background(), network, address, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return s
}

func stun(class byte) []byte {
	p := make([]byte, 20)
	p[1] = class
	copy(p[4:], []byte{0x21, 0x12, 0xa4, 0x42})
	return p
}

func send(t *testing.T, from net.PacketConn, to *Socket, p []byte) {
	t.Helper()
	target := &net.UDPAddr{IP: home, Port: int(to.AddrPort().Port())} // also where the socket is bound to no address
	if _, err := from.WriteTo(p, target); err != nil {
		t.Fatal(err)
	}
}

func plain(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: home})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestPairs: what is not STUN passes only from an address with a pair; what does
// not pass is counted and nobody sees it.
func TestPairs(t *testing.T) {
	s := listen(t, "udp", anyPort, Config{})
	stranger, peer := plain(t), plain(t)
	peerAddr := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	hello := []byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0} // begins a DTLS ClientHello
	quic := append([]byte{0xc0}, make([]byte, 1199)...)
	fakeSTUN := append([]byte{0, 1, 0, 0}, make([]byte, 16)...) // no cookie
	mark := stun(0x01)

	s.AllowPair(peerAddr)
	steps := []struct {
		name   string
		from   *net.UDPConn
		packet []byte
		passes bool
	}{
		{"ClientHello of a stranger", stranger, hello, false},
		{"QUIC Initial of a stranger", stranger, quic, false},
		{"STUN without cookie", stranger, fakeSTUN, false},
		{"empty packet", stranger, nil, false},
		{"STUN of a stranger", stranger, stun(0x01), true},
		{"DTLS of the peer", peer, hello, true},
		{"DTLS of the peer again", peer, hello, true},
		{"QUIC of the peer", peer, quic, true},
		{"again a stranger", stranger, hello, false},
	}
	buf := make([]byte, 2048)
	dropped := uint64(0)
	check := func(name string, from *net.UDPConn, packet []byte, passes bool) {
		t.Helper()
		send(t, from, s, packet)
		if !passes {
			dropped++
			send(t, from, s, mark) // passes behind what must not
			packet = mark
		}
		n, addr, err := s.ReadFromAddrPort(buf)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(buf[:n]) != string(packet) || addr != from.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Errorf("%s: read %d bytes (first %d) from %v", name, n, buf[0], addr)
		}
		if got := s.Stats().Dropped; got != dropped {
			t.Errorf("%s: %d dropped, want %d", name, got, dropped)
		}
	}
	for _, st := range steps {
		check(st.name, st.from, st.packet, st.passes)
	}
	check("the peer while it has a pair", peer, hello, true)
	s.RemovePair(peerAddr)
	check("the peer after its pair", peer, hello, false)
	if s.Pairs() != 0 {
		t.Errorf("%d pairs are left", s.Pairs())
	}
}

// TestLongPacket: what is longer than the buffer harms nothing behind it.
func TestLongPacket(t *testing.T) {
	s, stranger := listen(t, "udp", anyPort, Config{}), plain(t)
	send(t, stranger, s, append(stun(1), make([]byte, 2000)...))
	send(t, stranger, s, append(stun(2), 'x'))
	buf := make([]byte, 100)
	for _, want := range []int{len(buf), 21} {
		n, _, err := s.ReadFromAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n != want && runtime.GOOS != "windows" {
			t.Errorf("read %d bytes, want %d", n, want)
		}
		if n == 21 {
			return
		}
	}
	t.Error("the packet behind the long one was not read")
}

// TestMapped: an address of IPv4 is never seen in its mapped form, and may be
// given in it, whatever the socket is bound to.
func TestMapped(t *testing.T) {
	for _, bound := range []string{anyPort, ":0"} {
		s, peer := listen(t, "udp", bound, Config{}), plain(t)
		send(t, peer, s, stun(1))
		buf := make([]byte, 100)
		_, from, err := s.ReadFromAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if !from.Addr().Is4() {
			t.Errorf("%s: from %v", bound, from)
		}
		mapped := netip.AddrPortFrom(netip.AddrFrom16(from.Addr().As16()), from.Port())
		if _, err := s.WriteToAddrPort([]byte("hi"), mapped); err != nil {
			t.Errorf("%s: %v", bound, err)
		}
		if n, _, err := peer.ReadFrom(buf); err != nil || string(buf[:n]) != "hi" {
			t.Errorf("%s: read %q, %v", bound, buf[:n], err)
		}
		if st := s.Stats(); st.PacketsIn != 1 || st.PacketsOut != 1 || st.BytesIn != 20 || st.BytesOut != 2 {
			t.Errorf("%s: %+v", bound, st)
		}
	}
}

// TestNotShared: no second socket gets a part of the packets.
func TestNotShared(t *testing.T) {
	s := listen(t, "udp", anyPort, Config{})
	other, err := Listen(context.Background(), "udp", s.LocalAddr().String(), Config{})
	if err == nil {
		_ = other.Close()
		t.Fatal("two sockets on one port")
	}
	if !strings.Contains(err.Error(), s.LocalAddr().String()) {
		t.Errorf("the error does not name the address: %v", err)
	}
	if _, err := Listen(context.Background(), "tcp", anyPort, Config{}); err == nil {
		t.Error("a TCP network was accepted")
	}
}

// TestBuffers: what the kernel gave is told, and a smaller buffer than asked for
// leads to a warning that names the setting.
func TestBuffers(t *testing.T) {
	s := listen(t, "udp", anyPort, Config{ReadBuffer: 64 << 10, WriteBuffer: 64 << 10})
	if read, write := s.Buffers(); read != 64<<10 || write != 64<<10 {
		t.Errorf("buffers %d and %d", read, write)
	}
	if len(s.Warnings()) > 0 {
		t.Error(s.Warnings())
	}
	s = listen(t, "udp", anyPort, Config{ReadBuffer: 1 << 30, WriteBuffer: 1 << 30})
	read, write := s.Buffers()
	if read >= 1<<30 || write >= 1<<30 {
		t.Fatalf("the kernel gives buffers of %d and %d", read, write)
	}
	if w := s.Warnings(); len(w) != 2 || !strings.Contains(w[0], readSetting) || !strings.Contains(w[1], writeSetting) {
		t.Errorf("warnings %q", w)
	}
}

// TestNoAllocation: reading and writing packets of a pair costs the heap nothing.
func TestNoAllocation(t *testing.T) {
	s := listen(t, "udp", anyPort, Config{})
	peer := listen(t, "udp", anyPort, Config{})
	s.AllowPair(peer.AddrPort())
	buf, packet := make([]byte, 2048), append([]byte{23}, make([]byte, 1199)...)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := peer.WriteToAddrPort(packet, s.AddrPort()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.ReadFromAddrPort(buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

func TestIsSTUN(t *testing.T) {
	for _, c := range []struct {
		packet []byte
		want   bool
	}{
		{stun(0), true}, {stun(0x11), true}, {stun(0)[:19], false}, {nil, false},
		{append([]byte{4}, stun(0)[1:]...), false}, {append([]byte{64}, stun(0)[1:]...), false},
	} {
		if IsSTUN(c.packet) != c.want {
			t.Errorf("IsSTUN(% x) = %v", c.packet, !c.want)
		}
	}
}
