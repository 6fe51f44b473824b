package rtc

import (
	"context"
	"errors"
	"strings"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// answer has pion answer d and returns the text for the peer.
func (p *Peer) answer(ctx context.Context, d description) (string, error) {
	d.candidates = p.usable(d.candidates)
	if err := p.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: d.text()}); err != nil {
		return "", badOffer("the offer was not accepted: %w", err)
	}
	made, err := p.pc.CreateAnswer(nil)
	if err != nil {
		return "", tunnel.Errorf(framecodec.CodeInternal, "making the answer: %w", err)
	}
	gathered := webrtc.GatheringCompletePromise(p.pc)
	if err := p.pc.SetLocalDescription(made); err != nil {
		return "", tunnel.Errorf(framecodec.CodeInternal, "setting the answer: %w", err)
	}
	// Only the mux is asked, which knows: this does not wait for the network.
	if err := p.await(ctx, gathered); err != nil {
		return "", err
	}
	return p.localText(ctx, true)
}

// await waits for gathered, as long as there is somebody to wait.
func (p *Peer) await(ctx context.Context, gathered <-chan struct{}) error {
	select {
	case <-gathered:
		return nil
	case <-ctx.Done():
		return &tunnel.Error{Code: tunnel.CodeOf(ctx.Err()), Text: "finding local candidates", Err: ctx.Err()}
	case <-p.done:
		return p.Err()
	}
}

// localText returns our description with our own candidates in it.
func (p *Peer) localText(ctx context.Context, complete bool) (string, error) {
	local := p.pc.LocalDescription()
	if local == nil {
		return "", tunnel.Errorf(framecodec.CodeTunnelClosed, "the peer connection has ended")
	}
	text, err := withCandidates(local.SDP, p.hosts(ctx), complete)
	if err != nil {
		return "", tunnel.Errorf(framecodec.CodeInternal, "%w", err)
	}
	return text, nil
}

// usable returns which of the peer's candidates ICE is given.
func (p *Peer) usable(lines []string) []string {
	if p.ignore {
		return nil
	}
	return p.filter.use(lines)
}

// AddCandidates takes further candidates of the peer ("candidate:..." lines). It
// returns how many are used: none, without an error, where the peer's candidates
// are ignored. More than MaxCandidates in all are refused.
func (p *Peer) AddCandidates(lines []string) (used int, err error) {
	if err := p.count(len(lines)); err != nil {
		return 0, err
	}
	for _, line := range p.usable(lines) {
		if err := p.pc.AddICECandidate(webrtc.ICECandidateInit{Candidate: line}); err == nil {
			used++
		}
	}
	return used, nil
}

func (p *Peer) count(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if p.candidates+len(p.remote.candidates)+n > MaxCandidates {
		return badOffer("there are more than %d candidates", MaxCandidates)
	}
	p.candidates += n
	return nil
}

// IsRestart reports whether f asks for an ICE restart, and not only adds
// candidates to the present one.
func (p *Peer) IsRestart(f Fragment) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f.Ufrag != "" && f.Ufrag != p.remote.ufrag
}

// beginRestart notes that the path is given up and starts the clock. The caller
// holds restartMu.
func (p *Peer) beginRestart() error {
	p.mu.Lock()
	switch {
	case p.err != nil:
		defer p.mu.Unlock()
		return p.err
	case !p.connected:
		defer p.mu.Unlock()
		return tunnel.Errorf(framecodec.CodeConflict, "the peer connection is not connected yet")
	}
	p.restarting = true
	opened := p.opened
	p.mu.Unlock()
	if opened { // else the clock of the first channel runs, and is not to be put off
		p.startDeadline()
	}
	return nil
}

// Restart answers an ICE restart of the peer: its new credentials and candidates
// in, ours out (RFC 8445 section 9). What is wrong with f is found before
// anything is touched; from then on the old path is given up, and the peer ends
// with CodeTimeout unless the new one is there within ConnectTimeout. One
// restart at a time: CodeConflict. DTLS and the channels live on.
func (p *Peer) Restart(ctx context.Context, f Fragment) (Fragment, error) {
	if !p.restartMu.TryLock() {
		return Fragment{}, tunnel.Errorf(framecodec.CodeConflict, "another restart is being made")
	}
	defer p.restartMu.Unlock()
	d, err := p.restarted(f)
	if err != nil {
		return Fragment{}, err
	}
	if err := p.beginRestart(); err != nil {
		return Fragment{}, err
	}
	if _, err := p.answer(ctx, d); err != nil {
		// The agent has lost its old path already.
		p.end(&tunnel.Error{Code: framecodec.CodeTunnelLost, Text: "the ICE restart failed", Err: err})
		return Fragment{}, err
	}
	p.setRemote(d)
	return p.localFragment(ctx)
}

// restarted checks f and returns the remote description with it in.
func (p *Peer) restarted(f Fragment) (description, error) {
	if err := checkCredentials(f.Ufrag, f.Pwd); err != nil {
		return description{}, err
	}
	p.mu.Lock()
	d := p.remote
	p.mu.Unlock()
	switch {
	case f.Mid != "" && f.Mid != d.mid:
		return d, badOffer("the fragment names another section")
	case f.Ufrag == d.ufrag || f.Pwd == d.pwd:
		return d, badOffer("a restart needs new credentials")
	case len(f.Candidates) > MaxCandidates:
		return d, badOffer("there are more than %d candidates", MaxCandidates)
	}
	d.ufrag, d.pwd, d.candidates = f.Ufrag, f.Pwd, f.Candidates
	return d, nil
}

func (p *Peer) setRemote(d description) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remote, p.candidates = d, 0
}

// CandidateFragment returns what tells the other side of candidates of ours
// that were found after the description, the lines that OnCandidate was given;
// an empty one among them is the end of candidates.
func (p *Peer) CandidateFragment(lines ...string) (Fragment, error) {
	local := p.pc.LocalDescription()
	if local == nil {
		return Fragment{}, tunnel.Errorf(framecodec.CodeTunnelClosed, "the peer connection has ended")
	}
	f, err := fragmentOf(local.SDP)
	if err != nil {
		return f, err
	}
	f.Candidates, f.EndOfCandidates = nil, false
	for _, line := range lines {
		if line == "" {
			f.EndOfCandidates = true
		} else {
			f.Candidates = append(f.Candidates, line)
		}
	}
	return f, nil
}

// localFragment returns our present credentials and candidates.
func (p *Peer) localFragment(ctx context.Context) (Fragment, error) {
	text, err := p.localText(ctx, true)
	if err != nil {
		return Fragment{}, err
	}
	return fragmentOf(text)
}

// fragmentOf takes a fragment out of a description of ours.
func fragmentOf(text string) (Fragment, error) {
	var f Fragment
	for line := range strings.Lines(text) {
		if attribute, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "a="); ok {
			if err := f.readAttribute(attribute); err != nil {
				return Fragment{}, err
			}
		}
	}
	if f.Ufrag == "" {
		return Fragment{}, errors.New("our own description has no credentials")
	}
	return f, nil
}
