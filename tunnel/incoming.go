package tunnel

import "github.com/culvertgate/culvert/framecodec"

// Incoming is a stream that the peer asks for. Config.Accept gets it and must
// return at once; later exactly one of Attach and Refuse answers it, from any
// goroutine.
type Incoming struct{ st *Stream }

// Target returns what the peer asks for, as it wrote it: nothing is checked.
func (in *Incoming) Target() Target { return in.st.target }

// Stream returns the stream.
func (in *Incoming) Stream() *Stream { return in.st }

// Trace returns the peer's W3C traceparent, or "".
func (in *Incoming) Trace() string {
	in.st.mu.Lock()
	defer in.st.mu.Unlock()
	if in.st.extra == nil {
		return ""
	}
	return in.st.extra.trace
}

// OnCancel has f called (from a goroutine that must not be blocked) when the
// peer or the session gives the stream up before it is answered; at once if it
// already has.
func (in *Incoming) OnCancel(f func()) {
	in.st.mu.Lock()
	gone := in.st.gone
	if !gone {
		in.st.more().cancel = f
	}
	in.st.mu.Unlock()
	if gone {
		f()
	}
}

// Attach answers Opened with the bound address (may be empty) and joins ep to
// the stream. On error the Endpoint has been closed.
func (in *Incoming) Attach(ep Endpoint, address string) error {
	return in.st.attach(ep, address)
}

// Refuse answers with a code and a text that the peer may read.
func (in *Incoming) Refuse(code Code, text string) {
	if code == framecodec.CodeNormal {
		code = framecodec.CodeInternal
	}
	in.st.Reset(code, text)
}
