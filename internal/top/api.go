package top

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Ask sends a request to the admin API and returns the answer's body. path is
// below /webrtc_tunnel. Its error is an *UnreachableError if nobody answered. It is
// called concurrently: by one request for the table, and those that a person makes.
type Ask func(method, path string) ([]byte, error)

// UnreachableError is that of a request that nobody answered.
type UnreachableError struct {
	Err error
	Why string // short, for a line that says all else: connection refused
}

func (e *UnreachableError) Error() string { return e.Err.Error() }

func (e *UnreachableError) Unwrap() error { return e.Err }

var errUnreadable = errors.New("the admin API's answer cannot be read: does another version run?")

// tunnelRow is a tunnel of the list.
type tunnelRow struct {
	ID       string    `json:"id"`
	Side     string    `json:"side"`
	Remote   string    `json:"remote"`
	Endpoint string    `json:"endpoint"`
	Identity string    `json:"identity"`
	ClientIP string    `json:"client_ip"`
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Streams  int       `json:"streams"`
	BytesIn  uint64    `json:"bytes_in"`
	BytesOut uint64    `json:"bytes_out"`
	RTT      float64   `json:"rtt_ms"`

	rate rate
}

// of is the remote or the endpoint.
func (t *tunnelRow) of() string {
	if t.Remote != "" {
		return t.Remote
	}
	return t.Endpoint
}

// streamRow is a stream or raw channel of the tunnel that is looked into.
type streamRow struct {
	id                string // as the path of a request names it
	target, state     string
	bytesIn, bytesOut uint64
	age               time.Duration // negative: not told
	waits             string

	rate rate
}

// waiting is what a direction waits for, and for how many milliseconds.
type waiting struct {
	For string `json:"waits_for"`
	Ms  int64  `json:"waits_ms"`
}

// detail is a tunnel's part of GET /tunnels/{id}.
type detail struct {
	Streams []struct {
		ID        uint32  `json:"id"`
		Target    string  `json:"target"`
		Opened    bool    `json:"opened"`
		Sending   bool    `json:"sending"`
		Receiving bool    `json:"receiving"`
		BytesIn   uint64  `json:"bytes_in"`
		BytesOut  uint64  `json:"bytes_out"`
		Out       waiting `json:"out"`
		In        waiting `json:"in"`
		AgeMs     int64   `json:"age_ms"`
		Flow      *struct {
			Lost    uint64 `json:"lost"`
			Dropped uint64 `json:"dropped"`
		} `json:"flow"`
	} `json:"stream_list"`
	Raw []struct {
		ID       string `json:"id"`
		Target   string `json:"target"`
		Opened   bool   `json:"opened"`
		Code     string `json:"code"`
		BytesIn  uint64 `json:"bytes_in"`
		BytesOut uint64 `json:"bytes_out"`
	} `json:"raw_channels"`
}

// tunnels asks for the list.
func (ask Ask) tunnels() ([]tunnelRow, error) {
	body, err := ask(http.MethodGet, "/tunnels")
	if err != nil {
		return nil, err
	}
	var list []tunnelRow
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, errUnreadable
	}
	return list, nil
}

// streams asks for what runs in a tunnel.
func (ask Ask) streams(tunnel string) ([]streamRow, error) {
	body, err := ask(http.MethodGet, pathOf(tunnel, ""))
	if err != nil {
		return nil, err
	}
	var d detail
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, errUnreadable
	}
	list := make([]streamRow, 0, len(d.Streams)+len(d.Raw))
	for _, s := range d.Streams {
		row := streamRow{
			id: strconv.FormatUint(uint64(s.ID), 10), target: s.Target, state: streamState(s.Opened, s.Sending, s.Receiving),
			bytesIn: s.BytesIn, bytesOut: s.BytesOut, age: time.Duration(s.AgeMs) * time.Millisecond, waits: waits(s.Out, s.In),
		}
		if s.Flow != nil && s.Flow.Lost+s.Flow.Dropped > 0 {
			row.waits = strings.TrimPrefix(fmt.Sprintf("%s, datagrams: %d lost, %d dropped", row.waits, s.Flow.Lost, s.Flow.Dropped), ", ")
		}
		list = append(list, row)
	}
	for _, r := range d.Raw {
		if r.Code != "" {
			continue // it has ended
		}
		list = append(list, streamRow{
			id: r.ID, target: r.Target, state: streamState(r.Opened, true, true), bytesIn: r.BytesIn, bytesOut: r.BytesOut, age: -1,
		})
	}
	return list, nil
}

// kill ends a tunnel, or one of its streams.
func (ask Ask) kill(tunnel, stream string) error {
	_, err := ask(http.MethodDelete, pathOf(tunnel, stream))
	return err
}

func pathOf(tunnel, stream string) string {
	path := "/tunnels/" + url.PathEscape(tunnel)
	if stream != "" {
		path += "/streams/" + url.PathEscape(stream)
	}
	return path
}

func streamState(opened, sending, receiving bool) string {
	switch {
	case !opened:
		return "opening"
	case sending && receiving:
		return "open"
	case sending:
		return "sending" // the peer has ended its direction
	case receiving:
		return "receiving"
	default:
		return "ending"
	}
}

// waits says what both directions wait for. That nobody says anything new is no
// news unless it has lasted.
func waits(out, in waiting) string {
	if out.For == "target" { // both wait for it
		return "the target, " + shortDuration(ms(out.Ms))
	}
	var parts []string
	for _, d := range []struct {
		name string
		w    waiting
	}{{"out", out}, {"in", in}} {
		if d.w.For != "" && (d.w.For != "data" || d.w.Ms >= 1000) {
			parts = append(parts, fmt.Sprintf("%s: %s %s", d.name, d.w.For, shortDuration(ms(d.w.Ms))))
		}
	}
	return strings.Join(parts, ", ")
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
