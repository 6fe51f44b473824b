//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
)

// The two configurations are what an operator would write; nothing is tuned in
// them but the number of idle connections that one tunnel may hold. Both ends use the namespace's own address, as the wheel has to.
const gatewayCaddyfile = `{
	webrtc_tunnel {
		listen udp/%[1]s:0
	}
}
http://127.0.0.1:%[2]d {
	webrtc_tunnel /tunnel* {
		allow_anonymous
		target bench tcp/%[3]s
		limits {
			streams_per_tunnel 10000
		}
	}
}
`

const clientCaddyfile = `{
	webrtc_tunnel {
		remote gateway http://127.0.0.1:%[1]d/tunnel {
			connect eager
		}
	}
	layer4 {
		127.0.0.1:%[2]d {
			route {
				webrtc_tunnel gateway bench
			}
		}
	}
}
`

// openCulvert starts a gateway and a client, each a Caddy of its own.
func openCulvert(_ context.Context, at place) (*peer, error) {
	site, entry := at.ports(), at.ports()
	gateway, err := startCaddy(at, "exit", fmt.Sprintf(gatewayCaddyfile, at.network.Addr(), site, at.target))
	if err != nil {
		return nil, err
	}
	client, err := startCaddy(at, "entry", fmt.Sprintf(clientCaddyfile, site, entry))
	if err != nil {
		gateway.Kill()
		return nil, err
	}
	return &peer{
		Entry: fmt.Sprintf("127.0.0.1:%d", entry),
		entry: end{PID: client.PID(), done: client.Done(), stop: func() { stopCaddy(client) }, log: client.Log},
		exit:  end{PID: gateway.PID(), done: gateway.Done(), stop: func() { stopCaddy(gateway) }, log: gateway.Log},
		profile: func(ctx context.Context) (resident, error) {
			near, err := client.Profile(ctx)
			if err != nil {
				return resident{}, err
			}
			far, err := gateway.Profile(ctx)
			return resident{near.HeapAlloc + near.StackInuse, far.HeapAlloc + far.StackInuse}, err
		},
	}, nil
}

func startCaddy(at place, role, caddyfile string) (*testkit.Caddy, error) {
	dir := filepath.Join(at.dir, role)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return testkit.OpenCaddy(dir, testkit.CaddyConfig{Caddyfile: caddyfile, Namespace: at.network})
}

// stopCaddy asks first; how it ends is no part of the measurement.
func stopCaddy(c *testkit.Caddy) { _ = c.Stop(5 * time.Second) }
