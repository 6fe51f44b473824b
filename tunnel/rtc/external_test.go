package rtc

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/udp"
)

// namedGateway has a name as its only external address.
func namedGateway(t *testing.T, resolve resolver, log func() *zap.Logger) *Gateway {
	t.Helper()
	socket, err := udp.Listen(t.Context(), "udp", anyPort, udp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGateway(GatewayConfig{Socket: socket, Logger: log, Options: Options{ExternalAddresses: []string{"gateway.invalid"}}, resolve: resolve})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// TestExternalSyntax: what can neither be an address nor a name is told at load,
// before anything is looked up.
func TestExternalSyntax(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"gw.example.com": "", "gw.example.com.": "", "gw_1.example:3479": "", "localhost": "", "3com.example": "",
		"1.2.3":                 "four numbers",
		"203.0.113.300":         "four numbers",
		"1.2.3:3478":            "four numbers",
		"203.0.113.7:0":         "1 to 65535",
		"203.0.113.7:":          "1 to 65535",
		"gw.example:70000":      "1 to 65535",
		"gw..example":           "neither an address nor a name",
		"{env.ADDRESS}":         "neither an address nor a name",
		strings.Repeat("a", 64): "neither an address nor a name",
		strings.Repeat("a.", 99) + strings.Repeat("b.", 99): "neither an address nor a name",
	} {
		err := CheckExternalAddress(text)
		if (want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "external_address")) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestExternalFailureIsTold: a name that cannot be looked up is told when the
// gateway starts, once until it can be again, and stands in the error of an
// offer.
func TestExternalFailureIsTold(t *testing.T) {
	checkLeaks(t)
	core, logs := observer.New(zapcore.InfoLevel)
	logger := zap.New(core)
	var works atomic.Bool
	resolve := func(context.Context, string, string) ([]netip.Addr, error) {
		if works.Load() {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		}
		return nil, &net.DNSError{Err: "no such host", Name: "gateway.invalid", IsNotFound: true}
	}
	g := namedGateway(t, resolve, func() *zap.Logger { return logger })
	told := func(level zapcore.Level, want int) {
		t.Helper()
		eventually(t, 5*time.Second, level.String()+" line of the look-up", func() bool {
			return logs.FilterLevelExact(level).FilterMessageSnippet("external_address").Len() >= want
		})
		if n := logs.FilterLevelExact(level).FilterMessageSnippet("external_address").Len(); n != want {
			t.Errorf("%d lines at level %v, want %d: %v", n, level, want, logs.All())
		}
	}
	told(zapcore.WarnLevel, 1) // without any offer
	line := logs.All()[0].ContextMap()
	if line["name"] != "gateway.invalid" || !strings.Contains(line["what_to_do"].(string), "DNS") || !strings.Contains(line["error"].(string), "no such host") {
		t.Errorf("the line says %v", line)
	}
	if err := g.SetOptions(Options{ExternalAddresses: []string{"gateway.invalid"}}); err != nil { // a reload
		t.Fatal(err)
	}
	for range 3 {
		_, _, err := g.Answer(t.Context(), goodOffer, Handler{})
		if tunnel.CodeOf(err) != framecodec.CodeInternal || !strings.Contains(err.Error(), `looking up external_address "gateway.invalid"`) ||
			!strings.Contains(err.Error(), "no such host") {
			t.Errorf("an offer's error: %v", err)
		}
	}
	told(zapcore.WarnLevel, 1)
	told(zapcore.InfoLevel, 0)
	works.Store(true)
	for range 2 {
		if list, err := g.Addresses(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("with the name back: %v, %v", list, err)
		}
	}
	told(zapcore.InfoLevel, 1)
	works.Store(false)
	e := g.set.external[0]
	later := g.now().Add(2 * lookupAgain)
	if list := e.addresses(t.Context(), g.spawn, 3478, later); len(list) != 1 {
		t.Errorf("an address that was known is lost: %v", list)
	}
	told(zapcore.WarnLevel, 2)
}

// TestExternalWithoutAddress: an empty answer is a failure too.
func TestExternalWithoutAddress(t *testing.T) {
	checkLeaks(t)
	g := namedGateway(t, func(context.Context, string, string) ([]netip.Addr, error) { return nil, nil }, nil)
	if _, _, err := g.Answer(t.Context(), goodOffer, Handler{}); err == nil || !strings.Contains(err.Error(), "has no address") {
		t.Errorf("an offer's error: %v", err)
	}
}

// TestExternalLookupUnderWay: an offer whose client leaves while the first
// look-up runs says so, and not that an option is missing.
func TestExternalLookupUnderWay(t *testing.T) {
	checkLeaks(t)
	answer := make(chan struct{})
	g := namedGateway(t, func(context.Context, string, string) ([]netip.Addr, error) {
		<-answer
		return nil, errors.New("enough")
	}, nil)
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := g.Answer(gone, goodOffer, Handler{}); err == nil || !strings.Contains(err.Error(), "not looked up yet") {
		t.Errorf("an offer's error: %v", err)
	}
	close(answer)
}
