package integration

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	_ "github.com/culvertgate/culvert/internal/testkit/jwtauth"
)

// TestRulesForEachUser runs the Caddyfile of docs/per-user-rules.md, and asks with
// tokens what each may use.
func TestRulesForEachUser(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "per-user-rules.md"))
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile("(?s)```caddyfile\n\\{\n(.*?)\n\\}\n(.*?)```").FindStringSubmatch(string(page))
	if parts == nil {
		t.Fatal("the page has no Caddyfile with global options")
	}
	options, site := parts[1], parts[2]
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	file := filepath.Join(t.TempDir(), "jwt-key")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"gw.example.com {": "http://" + siteAddr + " {", "/run/secrets/jwt-key": file} {
		if !strings.Contains(site, from) {
			t.Fatalf("the page's Caddyfile has no %q", from)
		}
		site = strings.ReplaceAll(site, from, to)
	}
	start(t, global("", options)+site)

	token := func(key []byte, claims map[string]any) string {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const issuer = "https://login.example.com"
	later, before := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	other := slices.Clone(key)
	other[0] ^= 1
	for name, row := range map[string]struct {
		token  string
		status int
		usable []string
	}{
		"alice, no group":  {token(key, map[string]any{"iss": issuer, "sub": "alice", "exp": later}), http.StatusOK, []string{"payroll", "wiki"}},
		"bob of ops":       {token(key, map[string]any{"iss": issuer, "sub": "bob", "exp": later, "groups": []string{"dev", "ops"}}), http.StatusOK, []string{"ssh", "wiki"}},
		"carol of sales":   {token(key, map[string]any{"iss": issuer, "sub": "carol", "exp": later, "groups": []string{"sales"}}), http.StatusOK, []string{"wiki"}},
		"a token of old":   {token(key, map[string]any{"iss": issuer, "sub": "alice", "exp": before}), http.StatusUnauthorized, nil},
		"another's key":    {token(other, map[string]any{"iss": issuer, "sub": "alice", "exp": later}), http.StatusUnauthorized, nil},
		"another's issuer": {token(key, map[string]any{"iss": "https://evil.example", "sub": "alice", "exp": later}), http.StatusUnauthorized, nil},
		"no token":         {"", http.StatusUnauthorized, nil},
	} {
		t.Run(name, func(t *testing.T) {
			usable, status := usableTargets(t, row.token)
			if status != row.status || !slices.Equal(usable, row.usable) {
				t.Errorf("%d %v, want %d %v", status, usable, row.status, row.usable)
			}
		})
	}
}

// usableTargets asks the endpoint what the bearer of a token may open by name.
func usableTargets(t *testing.T, token string) (names []string, status int) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, siteURL+"/targets", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode
	}
	var answer struct {
		Targets []struct {
			Name   string
			Usable bool
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(fmt.Errorf("targets: %w", err))
	}
	for _, target := range answer.Targets {
		if target.Usable {
			names = append(names, target.Name)
		}
	}
	slices.Sort(names)
	return names, resp.StatusCode
}
