package culvert

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// drainRequest is the body of POST /drain.
type drainRequest struct {
	Deadline string `json:"deadline"` // how long streams may finish, such as 30s; none: timeouts drain
}

// startDrain answers POST /drain: no new tunnels and streams, and what is left ends
// at the deadline.
func (*Admin) startDrain(w http.ResponseWriter, r *http.Request) error {
	var q drainRequest
	if r.ContentLength != 0 {
		if err := readJSON(w, r, &q); err != nil {
			return err
		}
	}
	var limit time.Duration
	if q.Deadline != "" {
		var err error
		if limit, err = time.ParseDuration(q.Deadline); err != nil || limit < 0 {
			return apiError(http.StatusBadRequest, fmt.Errorf("deadline %q is not a time such as 30s", q.Deadline))
		}
	}
	for _, h := range runningHubs() {
		env := h.current()
		if env == nil { // a configuration that is still starting: it would begin with it
			continue
		}
		most := limit
		if q.Deadline == "" {
			most = time.Duration(env.timeouts.Drain)
		}
		h.startDrain(most)
	}
	return writeJSON(w, http.StatusAccepted, drainState())
}

// showDrain answers GET /drain.
func (*Admin) showDrain(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, drainState())
}

// cancelDrain answers DELETE /drain.
func (*Admin) cancelDrain(w http.ResponseWriter, _ *http.Request) error {
	under := false
	for _, h := range runningHubs() {
		under = h.cancelDrain() || under
	}
	if !under {
		return apiError(http.StatusNotFound, errors.New("no drain is under way"))
	}
	return writeJSON(w, http.StatusOK, drainState())
}

// drainState is that of all hubs together.
func drainState() drainInfo {
	var all drainInfo
	for _, h := range runningHubs() {
		i := h.drainInfo()
		all.Draining = all.Draining || i.Draining
		if i.Deadline.After(all.Deadline) {
			all.Deadline = i.Deadline
		}
		all.Tunnels += i.Tunnels
		all.Streams += i.Streams
	}
	return all
}
