package culvert

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"golang.org/x/net/http/httpguts"

	"github.com/culvertgate/culvert/tunnel"
)

// remoteSpec is a remote as configured, with everything a new one needs. A
// remote keeps its tunnel over a reload when the new spec equals the old one.
type remoteSpec struct {
	name       string
	remote     Remote // URLs expanded, headers not: they are read for each attempt
	iceServers []ICEServer
	timeouts   Timeouts
	// tunnelMemory bounds one tunnel, in bytes.
	tunnelMemory int64
	trust        *x509.CertPool // nil: the system's
	cert         *tls.Certificate
	pem          []byte // certificate and key as read: to see that they changed
}

// equal reports whether a running remote of spec s serves spec o as well: what it
// makes no use of may differ.
func (s *remoteSpec) equal(o *remoteSpec) bool {
	used := func(s *remoteSpec) []any {
		return []any{s.remote, s.ownICEServers(), s.timeouts.Connect, s.timeouts.Dial, s.timeouts.Write, s.timeouts.Idle, s.timeouts.UDPIdle, s.tunnelMemory}
	}
	a, errA := json.Marshal(used(s))
	b, errB := json.Marshal(used(o))
	return errA == nil && errB == nil && bytes.Equal(a, b) && bytes.Equal(s.pem, o.pem) &&
		(s.trust == nil) == (o.trust == nil) && (s.trust == nil || s.trust.Equal(o.trust))
}

// localRemote is what an entry writes for services of clients (interface.md,
// section 4): no remote can have that name.
const localRemote = "local"

// provisionRemotes checks the remotes and expands what is expanded once.
func (a *App) provisionRemotes(ctx caddy.Context, env *environment) error {
	repl := caddy.NewReplacer()
	for name, r := range a.Remote {
		spec, err := r.provision(ctx, repl)
		if err != nil {
			return fmt.Errorf("remote %q: %w", name, err)
		}
		if !tunnel.ValidTargetName(name) {
			return fmt.Errorf("remote %q: a name is [a-z0-9][a-z0-9_.-]* and not socks5", name)
		}
		if name == localRemote {
			return fmt.Errorf("remote %q: the name local is reserved for services that clients of this Caddy expose; choose another", name)
		}
		spec.name, spec.iceServers, spec.timeouts, spec.tunnelMemory = name, env.iceServers, env.timeouts, env.limits.TunnelMemory
		env.remotes[name] = spec
	}
	return nil
}

func (r *Remote) provision(ctx caddy.Context, repl *caddy.Replacer) (*remoteSpec, error) {
	spec := &remoteSpec{remote: *r}
	spec.remote.URLs = make([]string, len(r.URLs))
	for i, u := range r.URLs {
		expanded, err := repl.ReplaceOrErr(u, true, true)
		if err != nil {
			return nil, err
		}
		spec.remote.URLs[i] = expanded
	}
	if err := spec.remote.validate(); err != nil {
		return nil, err
	}
	if _, err := expandHeader(r.Header); err != nil {
		return nil, err
	}
	if _, err := newServices(r.Expose, nil); err != nil {
		return nil, err
	}
	if r.TLSTrustPool != nil {
		module, err := ctx.LoadModule(r, "TLSTrustPool")
		if err != nil {
			return nil, fmt.Errorf("loading trust pool: %w", err)
		}
		spec.trust = module.(caddytls.CA).CertPool()
	}
	return spec, r.readCertificate(spec, repl)
}

// readCertificate reads our own certificate, if one is configured.
func (r *Remote) readCertificate(spec *remoteSpec, repl *caddy.Replacer) error {
	if r.TLSClientAuth == nil {
		return nil
	}
	var parts [2][]byte
	for i, file := range []string{r.TLSClientAuth.Certificate, r.TLSClientAuth.Key} {
		path, err := repl.ReplaceOrErr(file, true, true)
		if err != nil {
			return fmt.Errorf("tls_client_auth: %w", err)
		}
		if parts[i], err = os.ReadFile(path); err != nil {
			return fmt.Errorf("tls_client_auth: %w", err)
		}
	}
	cert, err := tls.X509KeyPair(parts[0], parts[1])
	if err != nil {
		return fmt.Errorf("tls_client_auth: %w", err)
	}
	spec.cert, spec.pem = &cert, bytes.Join(parts[:], nil)
	return nil
}

// tlsConfig is how the remote's gateway is trusted and we are known to it.
func (s *remoteSpec) tlsConfig() *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.trust, ServerName: s.remote.TLSServerName}
	if s.cert != nil {
		cfg.Certificates = []tls.Certificate{*s.cert}
	}
	return cfg
}

// expandHeader reads the placeholders of a remote's headers. One that is empty
// or unknown is an error: the gateway would take us for nobody.
func expandHeader(header map[string]string) (http.Header, error) {
	repl := caddy.NewReplacer()
	h := make(http.Header, len(header))
	for name, value := range header {
		expanded, err := repl.ReplaceOrErr(value, true, true)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		switch { // the value may be a secret: it is not shown
		case !httpguts.ValidHeaderFieldName(name):
			return nil, fmt.Errorf("header %q: this cannot name a header", name)
		case !httpguts.ValidHeaderFieldValue(expanded):
			return nil, fmt.Errorf("header %s: the value cannot stand in a header: is it more than one line?", name)
		}
		h.Set(name, expanded)
	}
	return h, nil
}
