package integration

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// startDNS serves names, each with its addresses, on a free port of loopback
// until the test ends, and returns its address.
func startDNS(t *testing.T, names map[string][]string) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveDNS(t, conn, names)
	return conn.LocalAddr().String()
}

// serveDNS does it on a socket, which it closes.
func serveDNS(t *testing.T, conn net.PacketConn, names map[string][]string) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answerDNS(buf[:n], names); reply != nil {
				_, _ = conn.WriteTo(reply, from) // who asked asks again
			}
		}
	}()
}

// answerDNS returns the reply to a query, nil to what is none.
func answerDNS(query []byte, names map[string][]string) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	addresses, known := names[q.Name.String()]
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, text := range addresses {
		a := netip.MustParseAddr(text)
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		reply.Answers = append(reply.Answers, r)
	}
	out, err := reply.Pack()
	if err != nil {
		return nil
	}
	return out
}
