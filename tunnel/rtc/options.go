package rtc

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/tunnel/udp"
)

// Options of a gateway that may change while it runs (SetOptions). They hold
// for answers that are given afterwards.
type Options struct {
	// ConnectTimeout is the time from the answer to the first open channel, and
	// for a restart to connect. 0: DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// Timeouts of ICE. Zero fields: the defaults.
	Timeouts Timeouts
	// ExternalAddresses are where peers find this gateway, each an address, a
	// name, or either with a port. Answers then show them alone, and with
	// Candidates the public ones of this machine that it allows too; private ones
	// only with KeepPrivate.
	ExternalAddresses []string
	KeepPrivate       bool
	// Candidates says which addresses of this machine answers show: "all" (also
	// if nothing is said and there is no external address), "public", addresses
	// and CIDRs.
	Candidates []string
	// Loopback has loopback addresses in answers. A socket that is bound to one
	// needs it. A machine that has no other addresses shows them anyhow.
	Loopback bool
	// RemoteCandidates: the candidates of the peers are used, for a gateway that
	// must punch holes. Otherwise peers are only ever answered (peer-reflexive
	// candidates), so that the gateway cannot be made to scan.
	RemoteCandidates bool
	// RemoteAllowed filters candidates of the peers further; nil: all addresses
	// but unspecified, multicast, link-local and (without Loopback) loopback ones.
	RemoteAllowed func(netip.Addr) bool
}

// settings is Options, read.
type settings struct {
	Options
	external []*external
	filter   addressFilter
	api      func(alive context.Context, follow *rebinding) *webrtc.API // of one peer connection
}

func readOptions(o Options, socket *udp.Socket) (settings, error) {
	set := settings{Options: o}
	if set.ConnectTimeout <= 0 {
		set.ConnectTimeout = DefaultConnectTimeout
	}
	set.Timeouts = o.Timeouts.withDefaults()
	var err error
	if set.filter, err = parseFilter(o.Candidates); err != nil {
		return set, err
	}
	for _, text := range o.ExternalAddresses {
		e, err := parseExternal(text)
		if err != nil {
			return set, err
		}
		set.external = append(set.external, e)
	}
	if socket.AddrPort().Addr().IsLoopback() && !o.Loopback && len(set.external) == 0 {
		return set, fmt.Errorf("listening on the loopback address %v needs the option loopback, or no peer is told an address", socket.AddrPort())
	}
	return set, nil
}
