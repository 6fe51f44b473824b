package testkit

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"time"
)

// TubeSettings says what a tube listens on or dials. The zero value of a field
// leaves the setting out.
type TubeSettings struct {
	Listen       string   // listening side: host:port, port 0 for any
	Target       string   // dialling side: host:port of the fixed target
	Socks        bool     // listening side: SOCKS5 instead of a plain forward
	AllowedHosts []string // dialling side of SOCKS5
	AllowedPorts []string // dialling side of SOCKS5
}

func (s TubeSettings) settings() (map[string]any, error) {
	m := map[string]any{"conversationType": "tunnel", "turn_only": false}
	if s.Listen != "" {
		m["local_listen_addr"] = s.Listen
	}
	if s.Target != "" {
		host, port, err := net.SplitHostPort(s.Target)
		if err != nil {
			return nil, err
		}
		m["target_host"], m["target_port"] = host, port
	}
	if s.Socks {
		m["socks_mode"] = true
	}
	if len(s.AllowedHosts) > 0 {
		m["allowed_hosts"] = strings.Join(s.AllowedHosts, ",")
	}
	if len(s.AllowedPorts) > 0 {
		m["allowed_ports"] = strings.Join(s.AllowedPorts, ",")
	}
	return m, nil
}

// Tube is one peer connection of a Wheel.
type Tube struct {
	ListenAddr string // listening side: where it accepts, inside the wheel's network
	id         string
	wheel      *Wheel
}

// Listen makes a tube that offers and listens, and returns the offer's SDP.
// Accept takes the answer.
func (w *Wheel) Listen(ctx context.Context, s TubeSettings) (*Tube, string, error) {
	return w.create(ctx, s, "")
}

// Dial makes a tube that answers an offer and dials, and returns the answer's
// SDP.
func (w *Wheel) Dial(ctx context.Context, s TubeSettings, offerSDP string) (*Tube, string, error) {
	return w.create(ctx, s, base64.StdEncoding.EncodeToString([]byte(offerSDP)))
}

func (w *Wheel) create(ctx context.Context, s TubeSettings, offer string) (*Tube, string, error) {
	settings, err := s.settings()
	if err != nil {
		return nil, "", err
	}
	args := map[string]any{"settings": settings, "conversation": fmt.Sprintf("conversation-%d", time.Now().UnixNano())}
	if offer != "" {
		args["offer"] = offer
	}
	m, err := w.call(ctx, "create", args)
	if err != nil {
		return nil, "", err
	}
	sdp, err := base64.StdEncoding.DecodeString(m.Result.SDP)
	if err != nil {
		return nil, "", fmt.Errorf("wheel create: description is not base64: %w", err)
	}
	return &Tube{ListenAddr: m.Result.Listen, id: m.Result.Tube, wheel: w}, string(sdp), nil
}

// Accept gives the answer to a tube that has offered.
func (t *Tube) Accept(ctx context.Context, answerSDP string) error {
	sdp := base64.StdEncoding.EncodeToString([]byte(answerSDP))
	_, err := t.wheel.call(ctx, "answer", map[string]any{"tube": t.id, "sdp": sdp})
	return err
}

// Status returns the wheel's word for the tube's state; "ready" means that its
// data channel is open.
func (t *Tube) Status(ctx context.Context) (string, error) {
	m, err := t.wheel.call(ctx, "status", map[string]any{"tube": t.id})
	return m.Result.Status, err
}

// Ready waits until the data channel is open.
func (t *Tube) Ready(ctx context.Context) error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		status, err := t.Status(ctx)
		switch {
		case err != nil:
			return err
		case status == "ready":
			return nil
		case status == "failed" || status == "closed":
			return fmt.Errorf("the tube is %s:\n%s", status, tail(t.wheel.Log(), 4<<10))
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("the tube is still %s: %w", status, ctx.Err())
		}
	}
}

// Close ends the tube.
func (t *Tube) Close(ctx context.Context) error {
	_, err := t.wheel.call(ctx, "close", map[string]any{"tube": t.id})
	return err
}
