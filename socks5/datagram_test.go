package socks5

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

const whole = "\x00\x00\x00" // not a fragment

func TestParseDatagram(t *testing.T) {
	longest := strings.Repeat("x", 255)
	for _, tc := range []struct {
		name, prefix, address, data string
		host                        string
		port                        uint16
	}{
		{"name", whole, toName[3:], "data", "a.io", 443},
		{"IPv4", whole, to4[3:], "data", "127.0.0.1", 80},
		{"IPv6", whole, to6[3:], "data", "2001:db8::1", 65535},
		{"IPv4 inside IPv6 stays what it is", whole, "\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01\x00\x35", "data", "::ffff:10.0.0.1", 53},
		{"unspecified address is for the policy to refuse", whole, "\x01\x00\x00\x00\x00\x00\x35", "data", "0.0.0.0", 53},
		{"longest name", whole, "\x03\xff" + longest + "\x00\x35", "data", longest, 53},
		{"shortest name", whole, "\x03\x01a\x00\x35", "data", "a", 53},
		{"name in other letters", whole, "\x03\x06b\xc3\xbc.de\x00\x35", "data", "bü.de", 53},
		{"lowest port", whole, "\x01\x7f\x00\x00\x01\x00\x01", "data", "127.0.0.1", 1},
		{"no data", whole, to4[3:], "", "127.0.0.1", 80},
		{"no data for the shortest name", whole, "\x03\x01a\x00\x35", "", "a", 53},
		{"much data", whole, to4[3:], strings.Repeat("y", 65497), "127.0.0.1", 80},
		{"reserved bytes not 0", "\x12\x34\x00", to4[3:], "data", "127.0.0.1", 80},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := []byte(tc.prefix + tc.address + tc.data)
			d, err := ParseDatagram(p)
			if err != nil {
				t.Fatal(err)
			}
			if d.Host() != tc.host || d.Port() != tc.port {
				t.Errorf("for %s port %d, want %s port %d", d.Host(), d.Port(), tc.host, tc.port)
			}
			if string(d.Address) != tc.address || string(d.Data) != tc.data {
				t.Errorf("address %x, data %.40q", d.Address, d.Data)
			}
			if got := string(append(AppendDatagramHeader([]byte("before"), d.Address), d.Data...)); got != "before"+whole+tc.address+tc.data {
				t.Errorf("written again it is %.80q", got)
			}
		})
	}
}

func TestParseDatagramRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     error
	}{
		{"nothing", "", ErrDatagramShort},
		{"zeros, too few", "\x00\x00\x00\x00", ErrDatagramShort},
		{"first fragment", "\x00\x00\x01" + to4[3:] + "data", ErrFragment},
		{"last fragment", "\x00\x00\x82" + toName[3:] + "data", ErrFragment},
		{"last fragment of one", "\x00\x00\x80" + to6[3:] + "data", ErrFragment},
		{"fragment without an address", "\x00\x00\x01\x00\x00", ErrFragment},
		{"address type 0", whole + "\x00\x7f\x00\x00\x01\x00\x35data", ErrDatagramAddress},
		{"address type 2", whole + "\x02\x7f\x00\x00\x01\x00\x35data", ErrDatagramAddress},
		{"address type 5", whole + "\x05\x7f", ErrDatagramAddress},
		{"address type 255", whole + "\xff\x7f\x00\x00\x01\x00\x35data", ErrDatagramAddress},
		{"empty name", whole + "\x03\x00\x00\x35data", ErrDatagramAddress},
		{"NUL in a name", whole + "\x03\x03a\x00b\x00\x35data", ErrDatagramAddress},
		{"space in a name", whole + "\x03\x03a b\x00\x35data", ErrDatagramAddress},
		{"no-break space in a name", whole + "\x03\x04a\xc2\xa0b\x00\x35data", ErrDatagramAddress},
		{"new line in a name", whole + "\x03\x03a\nb\x00\x35data", ErrDatagramAddress},
		{"C1 control in a name", whole + "\x03\x04a\xc2\x85b\x00\x35data", ErrDatagramAddress},
		{"name not UTF-8", whole + "\x03\x03a\xffb\x00\x35data", ErrDatagramAddress},
		{"name cut within a letter", whole + "\x03\x02a\xc3\x00\x35\xbc", ErrDatagramAddress},
		{"wrong name and port 0", whole + "\x03\x03a b\x00\x00data", ErrDatagramAddress},
		{"port 0", whole + "\x01\x7f\x00\x00\x01\x00\x00data", ErrDatagramPort},
		{"port 0 of IPv6", whole + "\x04" + strings.Repeat("\x00", 18) + "data", ErrDatagramPort},
		{"port 0 of a name", whole + "\x03\x01a\x00\x00data", ErrDatagramPort},
		{"longest name without its port", whole + "\x03\xff" + strings.Repeat("x", 256), ErrDatagramShort},
	} {
		if d, err := ParseDatagram([]byte(tc.in)); !errors.Is(err, tc.want) || d.Address != nil || d.Data != nil {
			t.Errorf("%s: %+v, %v; want %v", tc.name, d, err, tc.want)
		}
	}
}

func TestParseDatagramCutAtEveryByte(t *testing.T) {
	for _, request := range []string{toName, to4, to6} {
		p := []byte(whole + request[3:])
		for n := range p {
			if d, err := ParseDatagram(p[:n:n]); !errors.Is(err, ErrDatagramShort) {
				t.Errorf("%d of %d bytes: %+v, %v", n, len(p), d, err)
			}
		}
		if d, err := ParseDatagram(p); err != nil || len(d.Data) != 0 {
			t.Errorf("whole: %+v, %v", d, err)
		}
	}
}

// The slices are the datagram's own bytes, and stay apart.
func TestDatagramAliases(t *testing.T) {
	p := []byte(whole + to4[3:] + "data")
	d, err := ParseDatagram(p)
	if err != nil {
		t.Fatal(err)
	}
	if &d.Address[0] != &p[3] || &d.Data[0] != &p[10] {
		t.Error("the datagram was copied")
	}
	_ = append(d.Address, "more"...)
	if !bytes.Equal(p, []byte(whole+to4[3:]+"data")) {
		t.Errorf("appending to the address has made %q of it", p)
	}
}

func TestDatagramsAllocateNothing(t *testing.T) {
	flows := map[string]int{to4[3:]: 1, to6[3:]: 2, toName[3:]: 3}
	buffer := make([]byte, 0, 600)
	for name, in := range map[string]string{
		"IPv4":         whole + to4[3:] + "data",
		"IPv6":         whole + to6[3:] + "data",
		"name":         whole + toName[3:] + "data",
		"longest name": whole + "\x03\xff" + strings.Repeat("x\xc3\xbc", 85) + "\x00\x35data",
		"fragment":     "\x00\x00\x01" + to4[3:] + "data",
		"short":        whole + "\x01\x7f",
		"address type": whole + "\x02\x7f\x00\x00\x01\x00\x35data",
		"wrong name":   whole + "\x03\xff" + strings.Repeat("x", 254) + " \x00\x35data",
		"port 0":       whole + "\x01\x7f\x00\x00\x01\x00\x00data",
	} {
		p, found := []byte(in), 0
		if n := testing.AllocsPerRun(100, func() {
			d, err := ParseDatagram(p)
			if err == nil && d.Port() != 0 {
				found = flows[string(d.Address)]
				buffer = append(AppendDatagramHeader(buffer[:0], d.Address), d.Data...)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if strings.HasPrefix(name, "IPv") && (found == 0 || !bytes.Equal(buffer, p)) {
			t.Errorf("%s: flow %d, answer %q", name, found, buffer)
		}
	}
}

func BenchmarkParseDatagram(b *testing.B) {
	for name, address := range map[string]string{"IPv4": to4[3:], "IPv6": to6[3:], "name": toName[3:]} {
		b.Run(name, func(b *testing.B) {
			p := []byte(whole + address + strings.Repeat("y", 1200))
			b.ReportAllocs()
			for b.Loop() {
				if d, err := ParseDatagram(p); err != nil || len(d.Data) != 1200 {
					b.Fatal("wrong datagram")
				}
			}
		})
	}
}
