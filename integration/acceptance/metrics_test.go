package acceptance

import (
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

func metricsOf(t testing.TB, c *testkit.Caddy) testkit.Metrics {
	t.Helper()
	m, err := readMetrics(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func readMetrics(c *testkit.Caddy) (testkit.Metrics, error) {
	ctx, cancel := adminContext()
	defer cancel()
	return c.Metrics(ctx)
}
