// Package jwtauth stands in for github.com/ggicci/caddy-jwt in tests, which the
// proxy of modules of our CI does not have: the directive, the options and the
// placeholders that docs/per-user-rules.md uses, over a real verification of the
// signature and the times. Like the module it gives its directive no place in the
// order of Caddy's. It is in no build that is shipped.
package jwtauth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func init() {
	caddy.RegisterModule(new(Provider))
	httpcaddyfile.RegisterHandlerDirective("jwtauth", parse)
}

// Provider verifies the bearer's token.
type Provider struct {
	SignKey         string            `json:"sign_key,omitempty"` // base64 of an HMAC key
	SignAlgorithm   string            `json:"sign_alg,omitempty"`
	IssuerWhitelist []string          `json:"issuer_whitelist,omitempty"`
	UserClaims      []string          `json:"user_claims,omitempty"`
	MetaClaims      map[string]string `json:"meta_claims,omitempty"`

	key []byte
}

// CaddyModule returns the Caddy module information.
func (*Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.authentication.providers.jwt", New: func() caddy.Module { return new(Provider) }}
}

// Provision reads the key.
func (p *Provider) Provision(caddy.Context) error {
	text, err := caddy.NewReplacer().ReplaceOrErr(p.SignKey, true, true)
	if err == nil {
		p.key, err = base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	}
	if err == nil && len(p.key) < 32 {
		err = errors.New("sign_key has less than 32 bytes")
	}
	return err
}

// Authenticate implements caddyauth.Authenticator.
func (p *Provider) Authenticate(_ http.ResponseWriter, r *http.Request) (caddyauth.User, bool, error) {
	none := caddyauth.User{}
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return none, false, nil
	}
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(p.SignAlgorithm)})
	if err != nil {
		return none, false, err
	}
	var standard jwt.Claims
	all := map[string]any{}
	if err := token.Claims(p.key, &standard, &all); err != nil {
		return none, false, err
	}
	for _, issuer := range p.IssuerWhitelist {
		if err = standard.ValidateWithLeeway(jwt.Expected{Issuer: issuer, Time: time.Now()}, 0); err == nil {
			break
		}
	}
	if err != nil {
		return none, false, err
	}
	user := caddyauth.User{Metadata: map[string]string{}}
	for _, claim := range p.UserClaims {
		if user.ID = said(all[claim]); user.ID != "" {
			break
		}
	}
	for claim, name := range p.MetaClaims {
		user.Metadata[name] = said(all[claim])
	}
	return user, user.ID != "", nil
}

// said is a claim as text; lists have commas between.
func said(claim any) string {
	switch c := claim.(type) {
	case nil:
		return ""
	case []any:
		list := make([]string, len(c))
		for i, one := range c {
			list[i] = said(one)
		}
		return strings.Join(list, ",")
	default:
		return fmt.Sprint(c)
	}
}

// parse reads the directive.
func parse(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := &Provider{MetaClaims: map[string]string{}}
	h.Next()
	for h.NextBlock(0) {
		option := h.Val()
		args := h.RemainingArgs()
		if len(args) == 0 {
			return nil, h.ArgErr()
		}
		switch option {
		case "sign_key":
			p.SignKey = args[0]
		case "sign_alg":
			p.SignAlgorithm = args[0]
		case "issuer_whitelist":
			p.IssuerWhitelist = args
		case "user_claims":
			p.UserClaims = args
		case "meta_claims":
			for _, a := range args {
				claim, name, ok := strings.Cut(a, "->")
				if !ok {
					name = claim
				}
				p.MetaClaims[strings.TrimSpace(claim)] = strings.TrimSpace(name)
			}
		default:
			return nil, h.Errf("unknown option %s", option)
		}
	}
	return caddyauth.Authentication{ProvidersRaw: caddy.ModuleMap{"jwt": caddyconfig.JSON(p, nil)}}, nil
}

var (
	_ caddy.Provisioner       = (*Provider)(nil)
	_ caddyauth.Authenticator = (*Provider)(nil)
)
