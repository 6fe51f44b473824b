//go:build culvert_faults && culvert_clock

package culvert

import (
	"net/http"
	"strconv"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/caddyserver/caddy/v2"
)

// wallJump is what testkit.ClockCaddyBinary puts into package time.
//
//go:linkname wallJump time.wallJump
var wallJump int64

func init() { caddy.RegisterModule(new(clockAdmin)) }

// clockAdmin sets the wall clock. It is in no build that is shipped.
type clockAdmin struct{}

// CaddyModule returns the Caddy module information.
func (*clockAdmin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.webrtc_tunnel_clock", New: func() caddy.Module { return new(clockAdmin) }}
}

// Routes implements caddy.AdminRouter.
func (*clockAdmin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/webrtc_tunnel_clock/{seconds}", Handler: byMethod(map[string]caddy.AdminHandlerFunc{
		http.MethodPost: func(w http.ResponseWriter, r *http.Request) error {
			seconds, err := strconv.ParseInt(r.PathValue("seconds"), 10, 64)
			if err != nil {
				return apiError(http.StatusBadRequest, err)
			}
			wallJump = seconds
			return writeJSON(w, http.StatusOK, time.Now())
		},
	})}}
}
