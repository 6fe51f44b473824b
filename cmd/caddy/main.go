// Command caddy is Caddy with the standard modules, caddy-l4 and Culvert: the
// binary for development. Releases are built with xcaddy (make build).
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/culvertgate/culvert"
)

func main() {
	caddycmd.Main()
}
