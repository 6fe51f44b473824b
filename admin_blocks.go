package culvert

import (
	"errors"
	"net/http"
	"time"
)

// blockRequest is the body of POST /blocks.
type blockRequest struct {
	Endpoint string    `json:"endpoint"`
	Identity string    `json:"identity"`
	Until    time.Time `json:"until"` // RFC 3339; none: until it is taken back
}

// addBlock answers POST /blocks: the identity's tunnels end, and it makes none.
func (*Admin) addBlock(w http.ResponseWriter, r *http.Request) error {
	var q blockRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if _, _, err := endpointNamed(q.Endpoint); err != nil {
		return err
	}
	b := identityBlock{Endpoint: q.Endpoint, Identity: q.Identity, Until: q.Until, Since: time.Now().UTC().Truncate(time.Second)}
	switch {
	case q.Identity == "":
		return apiError(http.StatusBadRequest, errors.New("identity is missing: anonymous clients have none that could be kept out"))
	case b.over(time.Now()):
		return apiError(http.StatusBadRequest, errors.New("until is over already"))
	}
	err := errNoStorage
	for _, h := range runningHubs() { // each has to know: a hub that waits for its next look lets the identity in until then
		switch e := h.ledger.addBlock(r.Context(), b); {
		case e == nil:
			err = nil
		case !errors.Is(e, errNoStorage): // that of a configuration which is still starting reads it when it has
			return apiError(http.StatusInternalServerError, e)
		}
	}
	if err != nil {
		return apiError(http.StatusInternalServerError, err)
	}
	return writeJSON(w, http.StatusCreated, b)
}

// listBlocks answers GET /blocks.
func (*Admin) listBlocks(w http.ResponseWriter, _ *http.Request) error {
	list := []identityBlock{}
	seen := map[identityAt]bool{}
	for _, h := range runningHubs() {
		for _, b := range h.ledger.blocks.all() {
			if at := (identityAt{b.Endpoint, b.Identity}); !seen[at] { // hubs of one process share storage
				seen[at] = true
				list = append(list, b)
			}
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

// removeBlock answers DELETE /blocks?endpoint=&identity=.
func (*Admin) removeBlock(w http.ResponseWriter, r *http.Request) error {
	endpoint, identity := r.URL.Query().Get("endpoint"), r.URL.Query().Get("identity")
	if endpoint == "" || identity == "" {
		return apiError(http.StatusBadRequest, errors.New("say whom: endpoint and identity"))
	}
	found := false
	for _, h := range runningHubs() { // each has to know, though the first has taken it out of what they share
		here, err := h.ledger.removeBlock(r.Context(), endpoint, identity)
		if err != nil && !errors.Is(err, errNoStorage) {
			return apiError(http.StatusInternalServerError, err)
		}
		found = found || here
	}
	if !found {
		return apiError(http.StatusNotFound, errors.New("this identity is not kept out"))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
