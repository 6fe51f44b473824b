package tunnel

import (
	"context"
	"regexp"

	"github.com/culvertgate/culvert/framecodec"
)

// Services are what a client lets the gateway open: the streams run the other way
// round (feature 4; SPEC.md section 3.2, messages 411 to 413).

// MaxServices is how many services a session offers, or takes, at a time.
const MaxServices = 64

var serviceName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// ValidServiceName reports whether s can name a service: [a-z0-9-]{1,63}.
func ValidServiceName(s string) bool { return serviceName.MatchString(s) }

// services is a session's part about services; the session's lock guards it.
type services struct {
	offers map[string]*Service // at a client
	frames []serviceFrame      // to be sent, in order
}

// serviceFrame is one of the three messages; asked, it is queued by name.
type serviceFrame struct {
	msg  framecodec.Message
	kind Kind
	code Code
	name string
	text string
}

// serviceFrameMost is the room that one of them may need.
const serviceFrameMost = framecodec.Overhead + 2 + 2 + 2 + 63 + 2 + 200

// serviceFramesMost bounds those that wait for a peer that does not read, but for
// offers, which are bounded by their number.
const serviceFramesMost = 4 * MaxServices

// Service is a service that the gateway has accepted. It is over when one side
// takes it back or the session ends. Its methods are safe for concurrent use.
type Service struct {
	s    *Session
	kind Kind
	name string
	done chan struct{}

	// Guarded by the session's lock.
	answer chan struct{} // closed by the answer; nil afterwards
	text   string
	err    *Error // set before done is closed
}

// Expose offers a service to the gateway, of kind KindNamed or KindNamedDatagram,
// and waits for its answer; Config.Accept is then asked for streams to that name.
// The error is an *Error: the gateway's (not_allowed, conflict), not_allowed where
// the gateway takes no services at all, or how the session ended.
func (s *Session) Expose(ctx context.Context, kind Kind, name string) (*Service, error) {
	if !ValidServiceName(name) {
		return nil, Errorf(framecodec.CodeUnknownTarget, "%q is no service's name: [a-z0-9-], at most 63", name)
	}
	select {
	case <-s.ready:
	case <-s.done:
		return nil, s.Err()
	case <-ctx.Done():
		return nil, gaveUpWaiting(ctx)
	}
	v, err := s.offer(kind, name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	answer := v.answer
	s.mu.Unlock()
	if answer != nil {
		select {
		case <-answer:
		case <-ctx.Done():
			v.Withdraw()
			return nil, gaveUpWaiting(ctx)
		}
	}
	select {
	case <-v.done:
		return nil, v.Err()
	default:
		return v, nil
	}
}

func gaveUpWaiting(ctx context.Context) *Error {
	return &Error{Code: CodeOf(ctx.Err()), Text: "gave up waiting for the other side", Err: ctx.Err()}
}

func (s *Session) offer(kind Kind, name string) (*Service, *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return nil, s.err
	case s.closing != nil:
		return nil, s.closing
	case s.d1 || !s.client || s.features.Load()&framecodec.FeatureReverse == 0:
		return nil, Errorf(framecodec.CodeNotAllowed, "the gateway takes no services")
	case s.services.offers[name] != nil:
		return nil, Errorf(framecodec.CodeConflict, "%s is offered already", name)
	case len(s.services.offers) >= MaxServices:
		return nil, Errorf(framecodec.CodeOverloaded, "at most %d services in a tunnel", MaxServices)
	}
	v := &Service{s: s, kind: kind, name: name, done: make(chan struct{}), answer: make(chan struct{})}
	if s.services.offers == nil {
		s.services.offers = map[string]*Service{}
	}
	s.services.offers[name] = v
	s.sendServiceLocked(serviceFrame{msg: framecodec.MsgExpose, kind: kind, name: name})
	return v, nil
}

// Name returns the service's name.
func (v *Service) Name() string { return v.name }

// Text returns what the gateway said with its answer: how the service is called
// there. Empty: nothing.
func (v *Service) Text() string {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return v.text
}

// Done is closed when the gateway opens no streams to the service any more.
func (v *Service) Done() <-chan struct{} { return v.done }

// Err returns why, behind Done: an *Error.
func (v *Service) Err() error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if v.err == nil {
		return nil
	}
	return v.err
}

// Withdraw takes the service back. Streams that run go on.
func (v *Service) Withdraw() {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.err != nil {
		return
	}
	v.endLocked(&Error{Code: framecodec.CodeCancelled, Text: "the service was withdrawn"})
	s.sendServiceLocked(serviceFrame{msg: framecodec.MsgWithdraw, name: v.name})
	if v.answer == nil { // else it keeps its name until the answer has come
		delete(s.services.offers, v.name)
	}
}

func (v *Service) endLocked(err *Error) {
	if v.err == nil {
		v.err = err
		close(v.done)
	}
}

// Revoke tells the client, at a gateway, that a service of its is no longer
// taken: it may offer it again. The caller has seen to it that no stream is opened
// to it any more.
func (s *Session) Revoke(name string, code Code, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.closing != nil || len(s.services.frames) >= serviceFramesMost {
		return // a client that reads nothing learns it when a stream is asked for in vain
	}
	s.sendServiceLocked(serviceFrame{msg: framecodec.MsgExposed, code: code, name: name, text: text})
}

func (s *Session) sendServiceLocked(f serviceFrame) {
	s.services.frames = append(s.services.frames, f)
	s.wakeLocked(waitRoom)
}

// appendOffers writes what is owed about services.
func (s *Session) appendOffers(b []byte) (_ []byte, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.services.frames) > 0 {
		if len(b)+serviceFrameMost > s.controlLimit() {
			return b, false
		}
		f := s.services.frames[0]
		s.services.frames = s.services.frames[1:]
		switch f.msg {
		case framecodec.MsgExpose:
			b = framecodec.Expose{Kind: uint8(f.kind), Name: []byte(f.name)}.AppendFrame(b, s.frameWord())
		case framecodec.MsgWithdraw:
			b = framecodec.Withdraw{Name: []byte(f.name)}.AppendFrame(b, s.frameWord())
		default:
			b = framecodec.Exposed{Code: f.code, Name: []byte(f.name), Text: peerText(f.text)}.AppendFrame(b, s.frameWord())
		}
	}
	s.services.frames = nil // nothing is held while idle
	return b, true
}

// endServices is the end of all of them with the session.
func (s *Session) endServices(err *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.services.offers {
		v.endLocked(err)
		v.answeredLocked()
	}
	s.services = services{}
}

func (v *Service) answeredLocked() {
	if v.answer != nil {
		close(v.answer)
		v.answer = nil
	}
}

// onService handles the messages about services.
func (s *Session) onService(msg framecodec.Message, data []byte) *Error {
	if s.features.Load()&framecodec.FeatureReverse == 0 || s.client != (msg == framecodec.MsgExposed) {
		return Errorf(framecodec.CodeProtocolError, "%s was not agreed upon", msg)
	}
	switch msg {
	case framecodec.MsgExpose:
		m, err := framecodec.ParseExpose(data)
		if err != nil {
			return Errorf(framecodec.CodeProtocolError, "Expose: %w", err)
		}
		return s.onExpose(m)
	case framecodec.MsgWithdraw:
		m, err := framecodec.ParseWithdraw(data)
		if err != nil {
			return Errorf(framecodec.CodeProtocolError, "Withdraw: %w", err)
		}
		if s.cfg.Withdrawn != nil {
			s.cfg.Withdrawn(string(m.Name))
		}
		return nil
	default:
		m, err := framecodec.ParseExposed(data)
		if err != nil {
			return Errorf(framecodec.CodeProtocolError, "Exposed: %w", err)
		}
		s.onExposed(m)
		return nil
	}
}

func (s *Session) onExpose(m framecodec.Expose) *Error {
	if len(m.Name) > framecodec.MaxHost { // the answer carries the name; a cut one would answer another offer
		return Errorf(framecodec.CodeProtocolError, "Expose of a name of %d bytes, at most %d are answered", len(m.Name), framecodec.MaxHost)
	}
	answer := framecodec.Exposed{Name: m.Name}
	kind, name := Kind(m.Kind), string(m.Name)
	switch {
	case kind != KindNamed && kind != KindNamedDatagram:
		answer.Code, answer.Text = framecodec.CodeUnknownTarget, []byte("this kind of service is not known here")
	case !ValidServiceName(name):
		answer.Code, answer.Text = framecodec.CodeUnknownTarget, []byte("a service's name is [a-z0-9-], at most 63")
	default:
		code, text := s.cfg.Exposed(kind, name)
		answer.Code, answer.Text = code, peerText(text)
	}
	return s.owe(answer)
}

// onExposed takes the answer to an offer, or what the gateway takes back.
func (s *Session) onExposed(m framecodec.Exposed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := string(m.Name)
	v := s.services.offers[name]
	refused := m.Code != framecodec.CodeNormal
	if v == nil {
		// It crossed what the gateway had taken back: neither side has it then. Only one
		// that accepts what nobody offered gets beyond the bound.
		if !refused && ValidServiceName(name) && len(s.services.frames) < serviceFramesMost {
			s.sendServiceLocked(serviceFrame{msg: framecodec.MsgWithdraw, name: name})
		}
		return
	}
	if refused {
		v.endLocked(&Error{Code: m.Code, Text: framecodec.SafeText(m.Text)})
	} else {
		v.text = framecodec.SafeText(m.Text)
	}
	v.answeredLocked()
	if v.err != nil {
		delete(s.services.offers, name)
	}
}
