package twonets

import (
	"crypto/rand"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
)

// offering is a client of the signalling that keeps its connections.
type offering struct{ http.Client }

func (f *trial) offering() *offering {
	transport := &http.Transport{DialContext: f.near.DialContext, MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	f.t.Cleanup(transport.CloseIdleConnections)
	return &offering{http.Client{Transport: transport, Timeout: patience}}
}

// post sends an offer.
func (o *offering) post(url, sdp string) (status int, answer string, err error) {
	resp, err := o.Post(url, "application/sdp", strings.NewReader(sdp))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// offerOf writes an offer as browsers make it, with these credentials.
func offerOf(ufrag, pwd, fingerprint string) string {
	return strings.Join([]string{
		"v=0", "o=- 4611731400430051336 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0",
		"m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0",
		"a=ice-ufrag:" + ufrag, "a=ice-pwd:" + pwd, "a=ice-options:trickle",
		"a=fingerprint:sha-256 " + fingerprint, "a=setup:actpass", "a=mid:0",
		"a=sctp-port:5000", "a=max-message-size:65536", "",
	}, "\r\n")
}

// anyOffer is one whose sender never does anything more.
func anyOffer() string {
	return offerOf(rand.Text()[:8], rand.Text(), strings.TrimSuffix(strings.Repeat("AB:", 32), ":"))
}
