package culvert

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// validateHealth checks where the endpoint says how it is: a path of its own, below
// the base path.
func validateHealth(path string) error {
	if path == "" {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case validateBasePath(path) != nil || path == "/":
		return fmt.Errorf("health %q is a plain path below the base path, such as /health", path)
	case slices.Contains([]string{"s", "targets"}, first), strings.HasPrefix(first, "client."):
		return fmt.Errorf("health %q: the endpoint answers this path otherwise, choose another", path)
	}
	return nil
}

// isHealth reports whether a request's path, as the client wrote it, is that of
// health.
func (e *Endpoint) isHealth(path string) bool {
	return e.Health != "" && path == strings.TrimSuffix(e.BasePath, "/")+e.Health
}

// serveHealth says whether new tunnels can be had: what load balancers ask. Reasons
// are the admin API's to tell.
func (e *Endpoint) serveHealth(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return nil
	}
	state, status := healthOf(e.hub.health())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(health{Status: state})
}

// healthOf is the word and the HTTP status of what is not as it should be.
func healthOf(unavailable, degraded []string) (state string, status int) {
	switch {
	case len(unavailable) > 0:
		return "unavailable", http.StatusServiceUnavailable
	case len(degraded) > 0:
		return "degraded", http.StatusOK
	default:
		return "ok", http.StatusOK
	}
}
