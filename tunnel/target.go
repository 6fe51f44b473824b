package tunnel

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/culvertgate/culvert/framecodec"
)

// Kind says how a target is named; the numbers are those of the Open message.
type Kind uint8

// The kinds of SPEC.md section 3.2, message 403.
const (
	KindNamed         Kind = 1 // stream target, by its name in the configuration
	KindTCP           Kind = 2 // host and port
	KindUDP           Kind = 3 // host and port
	KindNamedDatagram Kind = 4 // datagram target, by name
)

// Target is what an Open asks for. It is as the peer wrote it: nothing is
// normalised or checked before policy does.
type Target struct {
	Kind Kind
	Host string // name of the target, or host name or address
	Port uint16 // 0 for named targets
}

var targetName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*$`)

// ValidTargetName reports whether s can name a target: [a-z0-9][a-z0-9_.-]*, at
// most 255 bytes, and not the word socks5, which has a meaning of its own.
func ValidTargetName(s string) bool {
	return len(s) <= 255 && s != "socks5" && targetName.MatchString(s)
}

// servicePrefix begins the name of a service that a client exposes. No other
// target's name has a colon.
const servicePrefix = "client:"

// ServiceTarget is what leads to a service: client:IDENTITY/NAME.
func ServiceTarget(kind Kind, identity, name string) Target {
	return Target{Kind: kind, Host: servicePrefix + identity + "/" + name}
}

// Service returns whose service is meant and its name, if it is one. An identity
// may hold slashes, a name does not. Nothing is checked.
func (t Target) Service() (identity, name string, ok bool) {
	rest, ok := strings.CutPrefix(t.Host, servicePrefix)
	at := strings.LastIndexByte(rest, '/')
	if !ok || !t.Named() || at < 0 {
		return "", "", false
	}
	return rest[:at], rest[at+1:], true
}

func parseService(s string) (Target, error) {
	t := Target{Kind: KindNamed, Host: s}
	identity, name, ok := t.Service()
	if !ok || identity == "" || !ValidServiceName(name) || len(s) > framecodec.MaxHost {
		return Target{}, Errorf(framecodec.CodeUnknownTarget, "%q: a service that a client exposes is client:IDENTITY/NAME, the name [a-z0-9-]", s)
	}
	return t, nil
}

// ParseTarget reads what users type: a name, client:identity/name, tcp/host:port or
// udp/host:port. A dialect 1 peer that names none uses the empty name, which no
// user can type.
func ParseTarget(s string) (Target, error) {
	if strings.HasPrefix(s, servicePrefix) {
		return parseService(s)
	}
	network, rest, isAddress := strings.Cut(s, "/")
	if !isAddress {
		if !ValidTargetName(s) {
			return Target{}, Errorf(framecodec.CodeUnknownTarget, "%q is neither a target name ([a-z0-9][a-z0-9_.-]*) nor an address such as tcp/host:port", s)
		}
		return Target{Kind: KindNamed, Host: s}, nil
	}
	kind := KindTCP
	switch network {
	case "tcp":
	case "udp":
		kind = KindUDP
	default:
		return Target{}, Errorf(framecodec.CodeUnknownTarget, "%q: unknown network %q, use tcp/host:port or a target's name", s, network)
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil || host == "" {
		return Target{}, Errorf(framecodec.CodeUnknownTarget, "%q: an address needs a host and a port, such as tcp/10.0.0.5:22", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Target{}, Errorf(framecodec.CodeUnknownTarget, "%q: the port is a number from 1 to 65535", s)
	}
	return Target{Kind: kind, Host: host, Port: uint16(n)}, nil
}

// String returns the form that ParseTarget reads.
func (t Target) String() string {
	hostPort := net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	switch t.Kind {
	case KindTCP:
		return "tcp/" + hostPort
	case KindUDP:
		return "udp/" + hostPort
	default:
		return t.Host
	}
}

// Datagrams reports whether the target takes datagrams: its stream is a flow.
func (t Target) Datagrams() bool { return t.Kind == KindUDP || t.Kind == KindNamedDatagram }

// Named reports whether the target is one of the configuration's.
func (t Target) Named() bool { return t.Kind == KindNamed || t.Kind == KindNamedDatagram }
