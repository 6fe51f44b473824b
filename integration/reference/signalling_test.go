package reference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// offers is the program around a dialling wheel: it takes offers by HTTP, as a
// gateway of ours does as far as a client needs (RFC 9725 without trickle), and
// has the wheel answer them.
type offers struct {
	wheel    *testkit.Wheel
	settings testkit.TubeSettings

	mu    sync.Mutex
	tubes []*testkit.Tube // guarded by mu; the number in the session's URL is the index
}

// serveOffers serves at a port of a namespace until the test ends.
func serveOffers(t testing.TB, n *testkit.Namespace, port int, w *testkit.Wheel, s testkit.TubeSettings) *offers {
	t.Helper()
	o := &offers{wheel: w, settings: s}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /offers", o.answer)
	server := &http.Server{Handler: mux}
	l := must[net.Listener](t)(n.Listen("tcp", loopback(port)))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		check(t, server.Close())
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return o
}

func (o *offers) answer(w http.ResponseWriter, r *http.Request) {
	offer, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Content-Type") != "application/sdp" {
		http.Error(w, fmt.Sprintf("%q, %v", r.Header.Get("Content-Type"), err), http.StatusBadRequest)
		return
	}
	tube, answer, err := o.wheel.Dial(r.Context(), o.settings, string(offer))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	o.mu.Lock()
	o.tubes = append(o.tubes, tube)
	number := len(o.tubes) - 1
	o.mu.Unlock()
	w.Header().Set("Content-Type", "application/sdp")
	w.Header().Set("Location", fmt.Sprintf("/offers/%d", number))
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, answer) // else the client tries again
}

// made returns how many tunnels there have been.
func (o *offers) made() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.tubes)
}

// closeTube ends the newest tube by the reference's own means.
func (o *offers) closeTube(ctx context.Context) error {
	o.mu.Lock()
	tube := o.tubes[len(o.tubes)-1]
	o.mu.Unlock()
	return tube.Close(ctx)
}
