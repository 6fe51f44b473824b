package client

import (
	"context"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/culvertgate/culvert/internal/testkit/gatewaykit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// configFor is a client's configuration, of alice.
func configFor(g *gatewaykit.Gateway) Config {
	return Config{URLs: []string{g.URL()}, Header: bearer("alice")}
}

func bearer(token string) func(context.Context) (http.Header, error) {
	return func(context.Context) (http.Header, error) {
		if token == "" {
			return nil, nil
		}
		return http.Header{"Authorization": {"Bearer " + token}}, nil
	}
}
