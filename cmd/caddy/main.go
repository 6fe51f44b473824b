// Command caddy is Caddy with the standard modules, caddy-l4 and Culvert: the
// binary for development. Releases are built with xcaddy (make build).
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/culvertgate/culvert"
	_ "github.com/mholt/caddy-l4"
)

func main() {
	caddycmd.Main()
}
