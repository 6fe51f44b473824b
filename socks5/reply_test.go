package socks5

import (
	"net/netip"
	"testing"
)

func TestAppendReply(t *testing.T) {
	for _, tc := range []struct {
		reply       Reply
		bound, want string
	}{
		{Succeeded, "192.0.2.1:443", "\x05\x00\x00\x01\xc0\x00\x02\x01\x01\xbb"},
		{Succeeded, "[2001:db8::1]:1", "\x05\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01"},
		{Succeeded, "[::ffff:10.0.0.1]:2", "\x05\x00\x00\x01\x0a\x00\x00\x01\x00\x02"},
		{Succeeded, "[fe80::1%eth0]:3", "\x05\x00\x00\x04\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x03"},
		{ConnectionRefused, "", "\x05\x05" + nowhere},
	} {
		var bound netip.AddrPort
		if tc.bound != "" {
			bound = netip.MustParseAddrPort(tc.bound)
		}
		if got := string(AppendReply([]byte("before"), tc.reply, bound)); got != "before"+tc.want {
			t.Errorf("%v %s: %q, want %q", tc.reply, tc.bound, got, tc.want)
		}
	}
	if got := string(AppendReply(nil, HostUnreachable, netip.AddrPortFrom(netip.Addr{}, 80))); got != "\x05\x04"+nowhere {
		t.Errorf("a port without an address: %q", got)
	}
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"connection refused": ConnectionRefused.String(),
		"TTL expired":        TTLExpired.String(),
		"reply 9":            Reply(9).String(),
		"CONNECT":            Connect.String(),
		"BIND":               Bind.String(),
		"UDP ASSOCIATE":      Associate.String(),
		"command 240":        Command(240).String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for r := Succeeded; r <= AddressTypeNotSupported; r++ {
		if r.String() == "" {
			t.Errorf("reply %d has no words", r)
		}
	}
}
