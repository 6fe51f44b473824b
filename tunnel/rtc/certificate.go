package rtc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/pion/webrtc/v4"
)

const (
	certificateAge  = 24 * time.Hour      // after that new peer connections get another one
	certificateLife = 31 * 24 * time.Hour // for peer connections that live on with it
)

// certificates makes the DTLS certificate (ECDSA P-256) of new peer
// connections, and a new one every day: pion's default is made once, and ends
// within a month, and then every new peer connection fails.
type certificates struct {
	now func() time.Time

	mu      sync.Mutex
	current *webrtc.Certificate
	made    time.Time
}

func (c *certificates) get() (webrtc.Certificate, error) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if age := now.Sub(c.made); c.current != nil && age >= 0 && age < certificateAge {
		return *c.current, nil
	}
	made, err := newCertificate(now)
	if err != nil {
		return webrtc.Certificate{}, err
	}
	c.current, c.made = made, now
	return *made, nil
}

func newCertificate(now time.Time) (*webrtc.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the DTLS key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making the DTLS certificate: %w", err)
	}
	made, err := webrtc.NewCertificate(key, x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "WebRTC"},
		NotBefore:    now.Add(-time.Hour), // clocks differ
		NotAfter:     now.Add(certificateLife),
	})
	if err != nil {
		return nil, fmt.Errorf("making the DTLS certificate: %w", err)
	}
	return made, nil
}
