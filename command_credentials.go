package culvert

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpguts"
)

const (
	maxCredential = 64 << 10         // bytes of a file or of a command's output
	tokenTime     = 30 * time.Second // that --token-command has
)

// credentials say who the user is. They are read again for each request, so that
// a token may change while a tunnel is up.
type credentials struct {
	user, passwordFile, tokenFile, tokenCommand, headerFile, ticketFile string
}

func (c *credentials) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.user, "user", "", "user for Basic authentication; the password is in --password-file or WEBRTC_TUNNEL_PASSWORD")
	flags.StringVar(&c.passwordFile, "password-file", "", "file with the password of --user")
	flags.StringVar(&c.tokenFile, "token-file", "", "file with a bearer token")
	flags.StringVar(&c.tokenCommand, "token-command", "", "command that prints a bearer token; the shell runs it again when the token is a minute old and needed")
	flags.StringVar(&c.ticketFile, "ticket-file", "", "file with a ticket, or with the link that has it: then --url and --target may be left out")
	flags.StringVar(&c.headerFile, "header-file", "", "file with header lines (Name: value) for each request to the gateway")
}

// header returns what makes the headers, having tried once: a source that
// yields nothing is an error now, not a refusal later.
func (c *credentials) header(console *console) (func(context.Context) (http.Header, error), error) {
	read, err := c.source()
	if err != nil || read == nil {
		return nil, err
	}
	for _, path := range []string{c.passwordFile, c.tokenFile, c.headerFile, c.ticketFile} {
		warnIfShared(console, path)
	}
	if c.tokenCommand == "" {
		if _, err := read(context.Background()); err != nil {
			return nil, err
		}
	}
	return read, nil
}

// source chooses the one source of credentials; nil: there is none.
func (c *credentials) source() (func(context.Context) (http.Header, error), error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	switch {
	case c.headerFile != "":
		return func(context.Context) (http.Header, error) {
			h, err := readHeaderFile(c.headerFile)
			return h, ofOption("--header-file", err)
		}, nil
	case c.tokenCommand != "":
		cache := &tokenCache{command: c.tokenCommand}
		return func(ctx context.Context) (http.Header, error) { return bearer(cache.get(ctx)) }, nil
	case c.tokenFile != "":
		return func(context.Context) (http.Header, error) {
			h, err := bearer(readSecret(c.tokenFile))
			return h, ofOption("--token-file", err)
		}, nil
	case c.ticketFile != "":
		return func(context.Context) (http.Header, error) {
			_, ticket, err := readTicket(c.ticketFile)
			h, err := bearer(ticket, err)
			return h, ofOption("--ticket-file", err)
		}, nil
	case c.user != "":
		return func(context.Context) (http.Header, error) { return c.basic(c.user) }, nil
	case os.Getenv("WEBRTC_TUNNEL_TOKEN") != "":
		return func(context.Context) (http.Header, error) { return bearer(os.Getenv("WEBRTC_TUNNEL_TOKEN"), nil) }, nil
	case os.Getenv("WEBRTC_TUNNEL_USER") != "":
		return func(context.Context) (http.Header, error) { return c.basic(os.Getenv("WEBRTC_TUNNEL_USER")) }, nil
	}
	return nil, nil
}

func (c *credentials) check() error {
	given := 0
	for _, s := range []string{c.user, c.tokenFile, c.tokenCommand, c.headerFile, c.ticketFile} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return errors.New("give one of --user, --token-file, --token-command, --ticket-file and --header-file")
	case strings.Contains(c.user, ":"):
		return errors.New("--user takes the name alone: the password would stand in the argument list, which other users can read; use --password-file")
	case c.passwordFile != "" && c.user == "" && os.Getenv("WEBRTC_TUNNEL_USER") == "":
		return errors.New("--password-file needs --user")
	}
	return nil
}

func (c *credentials) basic(user string) (http.Header, error) {
	password := os.Getenv("WEBRTC_TUNNEL_PASSWORD")
	if c.passwordFile != "" {
		var err error
		if password, err = readSecret(c.passwordFile); err != nil {
			return nil, ofOption("--password-file", err)
		}
	}
	if password == "" {
		return nil, fmt.Errorf("no password for %s: give --password-file or WEBRTC_TUNNEL_PASSWORD", user)
	}
	value := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	return http.Header{"Authorization": {value}}, nil
}

// readTicket reads a file with a ticket, or with a link that has one in its
// fragment: then url is where it leads.
func readTicket(path string) (link, ticket string, err error) {
	text, err := readSecret(path)
	if err != nil {
		return "", "", err
	}
	text = strings.TrimSpace(text)
	link, ticket, isLink := strings.Cut(text, "#ticket=")
	switch {
	case !isLink && strings.Contains(text, "://"):
		return "", "", fmt.Errorf("%s: the link has no #ticket=", path) // the text may be a secret
	case !isLink:
		return "", text, nil
	}
	return link, ticket, nil
}

// ofOption says which option an error is about.
func ofOption(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

func bearer(token string, err error) (http.Header, error) {
	if err != nil {
		return nil, err
	}
	if !httpguts.ValidHeaderFieldValue(token) {
		return nil, errors.New("the token cannot stand in a header: is it more than one line?")
	}
	return http.Header{"Authorization": {"Bearer " + token}}, nil
}

// readSecret returns a file's content without the line end.
func readSecret(path string) (string, error) {
	content, err := readBounded(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(content), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCredential {
		return nil, fmt.Errorf("%s is larger than %d bytes: is it the right file?", path, maxCredential)
	}
	return os.ReadFile(path)
}

// readHeaderFile reads lines of the form Name: value; empty ones and those that
// begin with # are skipped.
func readHeaderFile(path string) (http.Header, error) {
	content, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	h := make(http.Header)
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, maxCredential+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("%s, line %d: want Name: value", path, n) // the line itself may be a secret
		}
		h.Add(name, value)
	}
	if len(h) == 0 {
		return nil, fmt.Errorf("%s holds no header", path)
	}
	return h, nil
}

// tokenCache keeps what a command has printed for a minute, so that one attempt
// to connect asks once.
type tokenCache struct {
	command string

	mu    sync.Mutex
	token string
	at    time.Time
}

func (c *tokenCache) get(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Since(c.at) < time.Minute {
		return c.token, nil
	}
	token, err := runTokenCommand(ctx, c.command)
	c.token, c.at = token, time.Now()
	return token, err
}

// runTokenCommand runs a command by the shell and returns what it prints.
func runTokenCommand(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTime)
	defer cancel()
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/C"
	}
	cmd := exec.CommandContext(ctx, shell, flag, command)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	token := strings.TrimSpace(string(out))
	switch {
	case err != nil:
		return "", fmt.Errorf("--token-command failed: %w", err)
	case token == "" || len(token) > maxCredential:
		return "", fmt.Errorf("--token-command printed %d bytes, want a token", len(out))
	}
	return token, nil
}

// warnIfShared tells that others can read a file of secrets.
func warnIfShared(console *console, path string) {
	if path == "" || runtime.GOOS == "windows" {
		return
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		console.say("warning: other users can read %s: chmod 600 %s", path, path)
	}
}

// tlsFiles say which gateways are trusted and what certificate is ours.
type tlsFiles struct{ ca, cert, key string }

func (f *tlsFiles) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.ca, "ca", "", "file with the authorities (PEM) that may have signed the gateway's certificate, instead of the system's")
	flags.StringVar(&f.cert, "cert", "", "file with our own certificate (PEM), for a gateway that asks for one")
	flags.StringVar(&f.key, "key", "", "file with the key (PEM) of --cert")
}

func (f *tlsFiles) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, ofOption("--ca", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate (PEM)", f.ca)
		}
	}
	if (f.cert == "") != (f.key == "") {
		return nil, errors.New("--cert and --key belong together")
	}
	if f.cert != "" {
		pair, err := f.pair()
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// pair reads our own certificate and its key.
func (f *tlsFiles) pair() (tls.Certificate, error) {
	cert, err := os.ReadFile(f.cert)
	if err != nil {
		return tls.Certificate{}, ofOption("--cert", err)
	}
	key, err := os.ReadFile(f.key)
	if err != nil {
		return tls.Certificate{}, ofOption("--key", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	return pair, ofOption("--cert and --key", err)
}
