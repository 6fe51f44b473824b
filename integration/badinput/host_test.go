package badinput

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/socks5"
)

// host runs a row: by SOCKS5 with the host as text, by SOCKS5 with an address
// where it is one, and by explain.
func (w *world) host(t *testing.T, r hostRow) {
	before := w.mustTunnels(t)
	r.host = strings.NewReplacer("{here}", w.here.String(), "{there}", w.there.String()).Replace(r.host)
	if r.port == 0 {
		r.port = w.adminPort(t)
	}
	entry := map[string]string{alice: aliceSOCKS, bob: bobSOCKS}[r.who]
	w.once(t, "SOCKS5", func() error { return w.socks(entry, r, false) })
	if a, err := netip.ParseAddr(r.host); err == nil && a.Zone() == "" {
		w.once(t, "SOCKS5 with an address", func() error { return w.socks(entry, r, true) })
	}
	w.once(t, "explain", func() error { return w.explain(r) })
	w.left(t, before)
}

// once runs one way to ask, with names as at the beginning, and holds that each
// is looked up once.
func (w *world) once(t *testing.T, way string, ask func() error) {
	t.Helper()
	w.dns.forget()
	if err := ask(); err != nil {
		t.Errorf("%s: %v", way, err)
	}
	if n := w.dns.forget(); n > 1 {
		t.Errorf("%s: the name was looked up %d times", way, n)
	}
}

func (w *world) adminPort(t *testing.T) uint16 {
	t.Helper()
	u, err := url.Parse(w.caddy.AdminURL)
	check(t, err)
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	check(t, err)
	return uint16(port)
}

// socks asks an entry and compares its reply; what has opened must lead to the
// echo server.
func (w *world) socks(entry string, r hostRow, literal bool) error {
	ask := w.dialSOCKS
	if literal {
		ask = w.dialSOCKSAddress
	}
	c, reply, err := ask(entry, r.host, r.port)
	if err != nil {
		return err
	}
	defer c.Close()
	code, ok := framecodec.ParseCode(r.code)
	if !ok {
		return fmt.Errorf("the row's code %q is none", r.code)
	}
	want := code.SOCKSReply()
	if code == framecodec.CodeNormal {
		want = 0
	}
	if reply != want {
		return fmt.Errorf("reply %d, want %d", reply, want)
	}
	if reply != 0 {
		return nil
	}
	if _, err := io.WriteString(c, r.name); err != nil {
		return err
	}
	got := make([]byte, len(r.name))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != r.name {
		return fmt.Errorf("what was opened answers %q, %w", got, err)
	}
	return nil
}

// dialSOCKS asks an entry for a host by its text (RFC 1928, address type 3).
func (w *world) dialSOCKS(entry, host string, port uint16) (net.Conn, byte, error) {
	return w.askSOCKS(entry, append([]byte{3, byte(len(host))}, host...), port)
}

// dialSOCKSAddress asks for an address (types 1 and 4).
func (w *world) dialSOCKSAddress(entry, host string, port uint16) (net.Conn, byte, error) {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil, 0, err
	}
	kind := byte(4)
	if a.Is4() {
		kind = 1
	}
	return w.askSOCKS(entry, append([]byte{kind}, a.AsSlice()...), port)
}

func (w *world) askSOCKS(entry string, host []byte, port uint16) (net.Conn, byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := w.net.DialContext(ctx, "tcp", entry)
	if err != nil {
		return nil, 0, err
	}
	request := append([]byte{5, 1, 0, 5, 1, 0}, host...)
	request = binary.BigEndian.AppendUint16(request, port)
	var answer [12]byte // the choice of a method, and a reply with an IPv4 address
	if err = c.SetDeadline(time.Now().Add(patience)); err == nil {
		_, err = c.Write(request)
	}
	if err == nil {
		_, err = io.ReadFull(c, answer[:])
	}
	if err != nil {
		return nil, 0, errors.Join(err, c.Close())
	}
	return c, answer[3], nil
}

// explain asks the admin API for the same decision.
func (w *world) explain(r hostRow) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	question, err := json.Marshal(map[string]string{
		"endpoint": "gw", "identity": r.who, "target": "tcp/" + net.JoinHostPort(r.host, strconv.Itoa(int(r.port))),
	})
	if err != nil {
		return err
	}
	status, text, err := w.caddy.Do(ctx, http.MethodPost, "/webrtc_tunnel/explain", "application/json", string(question))
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("%d %s %w", status, text, err)
	}
	var said struct {
		Allowed bool
		Code    string
		Rule    struct {
			List  string
			Index int
		}
	}
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		return err
	}
	rule := said.Rule.List
	if said.Rule.Index >= 0 {
		rule += fmt.Sprintf("[%d]", said.Rule.Index)
	}
	code := r.code
	if code == framecodec.CodeRefused.String() { // explain dials nothing
		code = framecodec.CodeNormal.String()
	}
	if said.Code != code || rule != r.rule || said.Allowed != (code == framecodec.CodeNormal.String()) {
		return fmt.Errorf("%s by %s, want %s by %s: %s", said.Code, rule, code, r.rule, text)
	}
	return nil
}

// farSOCKS: an entry without users serves its own machine only, whatever it
// listens on.
func (w *world) farSOCKS(t *testing.T) {
	before := w.mustTunnels(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := w.far.DialContext(ctx, "tcp", netip.AddrPortFrom(w.here, openSOCKS).String())
	check(t, err)
	defer c.Close()
	check(t, c.SetDeadline(time.Now().Add(patience)))
	_, _ = c.Write([]byte{5, 1, 0}) // it may be closed already
	answer, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) || len(answer) > 0 {
		t.Errorf("a stranger was answered % x, %v", answer, err)
	}
	w.left(t, before)
}

// silentSOCKS: a client has ten seconds to say what it wants.
func (w *world) silentSOCKS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := w.net.DialContext(ctx, "tcp", aliceSOCKS)
	check(t, err)
	defer c.Close()
	began := time.Now()
	check(t, c.SetDeadline(began.Add(socks5.HandshakeTimeout+patience)))
	_, err = c.Write([]byte{5, 1, 0, 5, 1}) // the greeting and the beginning of a request
	check(t, err)
	answer, err := io.ReadAll(c)
	if took := time.Since(began); errors.Is(err, os.ErrDeadlineExceeded) || took < socks5.HandshakeTimeout-time.Second {
		t.Errorf("the connection was ended after %v: % x, %v", took, answer, err)
	}
}
