//go:build culvert_faults

package culvert

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/culvertgate/culvert/internal/faultpoint"
)

func init() { caddy.RegisterModule(new(faultAdmin)) }

// faultAdmin arms faults. It is in no build that is shipped.
type faultAdmin struct{}

// CaddyModule returns the Caddy module information.
func (*faultAdmin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.webrtc_tunnel_faults", New: func() caddy.Module { return new(faultAdmin) }}
}

// Routes implements caddy.AdminRouter.
func (*faultAdmin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/webrtc_tunnel_faults/panics/{point}", Handler: byMethod(map[string]caddy.AdminHandlerFunc{
		http.MethodPost: func(w http.ResponseWriter, r *http.Request) error {
			faultpoint.Arm(faultpoint.Point(r.PathValue("point")))
			w.WriteHeader(http.StatusNoContent)
			return nil
		},
		http.MethodGet: func(w http.ResponseWriter, r *http.Request) error {
			return writeJSON(w, http.StatusOK, faultpoint.Fired(faultpoint.Point(r.PathValue("point"))))
		},
	})}}
}
