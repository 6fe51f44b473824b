package badinput

import (
	"strings"

	"github.com/pion/webrtc/v4"

	"github.com/culvertgate/culvert/framecodec"
)

// What a row leaves behind. In every case the session that was there before goes
// on, and no answer is a 5xx or calls its fault the gateway's.
const (
	nothing   = "nothing"   // the gateway's tunnels, handshakes included, are those from before
	handshake = "handshake" // one more that is being set up; it goes with DELETE and leaves nothing
)

// Headers of a request, a line each.
const (
	sdp      = "Content-Type: application/sdp\n"
	fragment = "Content-Type: application/trickle-ice-sdpfrag\n"
)

// offer is good: each row changes one thing of it.
const offer = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n" +
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n" +
	"a=ice-ufrag:badinput\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n" +
	"a=fingerprint:sha-256 " + digest + "\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n"

const (
	digest      = "D2:FA:0E:C3:22:59:5E:14:95:69:92:3D:13:B4:84:24:2C:C2:A2:C0:3E:FD:34:8E:5E:EA:6F:AF:52:CE:E6:0F"
	candidate   = "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n"
	media       = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendrecv\r\na=rtpmap:111 opus/48000/2\r\n"
	second      = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\n"
	section     = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n"
	credentials = "a=ice-ufrag:badinpu2\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui2\r\n"
)

// request is a row of signalling. {open} stands for the session URL of a tunnel
// of alice's that is open, {fresh} for one of hers that is not connected yet,
// {other} for the first one's at another endpoint, {tag} and {freshtag} for
// their ETags.
type request struct {
	name    string
	who     string
	from    string
	send    string
	headers string
	body    string

	status int
	code   string // of the problem document; empty: there is none
	header string // that the answer must have
	left   string
}

var requests = []request{
	// The body.
	{"body empty", alice, near, "POST /tunnel", sdp, "", 400, "bad_offer", "", nothing},
	{"body of 1 MB", alice, near, "POST /tunnel", sdp, strings.Repeat("a", 1<<20), 413, "too_large", "", nothing},
	{"body of 1 MB without a length", alice, near, "POST /tunnel", sdp + "Transfer-Encoding: chunked\n", strings.Repeat("a", 1<<20), 413, "too_large", "", nothing},
	{"body of 64 KiB and a byte", alice, near, "POST /tunnel", sdp, strings.Repeat("a", 64<<10+1), 413, "too_large", "", nothing},
	{"wrong type", alice, near, "POST /tunnel", "Content-Type: application/json\n", offer, 415, "unsupported_media", "Accept-Post: application/sdp", nothing},
	{"a form's type", alice, near, "POST /tunnel", "Content-Type: text/plain\n", offer, 415, "unsupported_media", "", nothing},
	{"no type", alice, near, "POST /tunnel", "", offer, 415, "unsupported_media", "", nothing},
	{"compressed", alice, near, "POST /tunnel", sdp + "Content-Encoding: gzip\n", offer, 415, "unsupported_media", "", nothing},
	{"not SDP", alice, near, "POST /tunnel", sdp, "hello", 400, "bad_offer", "", nothing},
	{"JSON", alice, near, "POST /tunnel", sdp, `{"type":"offer","sdp":"v=0"}`, 400, "bad_offer", "", nothing},
	{"zero bytes", alice, near, "POST /tunnel", sdp, strings.Repeat("\x00", 1000), 400, "bad_offer", "", nothing},
	{"SDP cut off", alice, near, "POST /tunnel", sdp, offer[:len(offer)/2], 400, "bad_offer", "", nothing},

	// The offer.
	{"no section", alice, near, "POST /tunnel", sdp, offer[:strings.Index(offer, "m=")], 400, "bad_offer", "", nothing},
	{"with media", alice, near, "POST /tunnel", sdp, offer + media, 422, "bad_offer", "", nothing},
	{"media only", alice, near, "POST /tunnel", sdp, offer[:strings.Index(offer, "m=")] + media, 422, "bad_offer", "", nothing},
	{"two data-channel sections", alice, near, "POST /tunnel", sdp, offer + second, 422, "bad_offer", "", nothing},
	{"another protocol", alice, near, "POST /tunnel", sdp, replace("UDP/DTLS/SCTP", "TCP/DTLS/SCTP"), 422, "bad_offer", "", nothing},
	{"section refused", alice, near, "POST /tunnel", sdp, replace("m=application 9", "m=application 0"), 400, "bad_offer", "", nothing},
	{"no fingerprint", alice, near, "POST /tunnel", sdp, without("a=fingerprint"), 400, "bad_offer", "", nothing},
	{"fingerprint by SHA-1 only", alice, near, "POST /tunnel", sdp, replace("sha-256 "+digest, "sha-1 "+digest[:59]), 400, "bad_offer", "", nothing},
	{"fingerprint too short", alice, near, "POST /tunnel", sdp, replace(digest, digest[:92]), 400, "bad_offer", "", nothing},
	{"fingerprint not in hex", alice, near, "POST /tunnel", sdp, replace("D2:FA", "ZZ:FA"), 400, "bad_offer", "", nothing},
	{"two fingerprints", alice, near, "POST /tunnel", sdp, offer + "a=fingerprint:sha-256 " + strings.Replace(digest, "D2", "D3", 1) + "\r\n", 400, "bad_offer", "", nothing},
	{"setup:active", alice, near, "POST /tunnel", sdp, replace("setup:actpass", "setup:active"), 422, "bad_offer", "", nothing},
	{"setup:holdconn", alice, near, "POST /tunnel", sdp, replace("setup:actpass", "setup:holdconn"), 400, "bad_offer", "", nothing},
	{"no setup", alice, near, "POST /tunnel", sdp, without("a=setup"), 400, "bad_offer", "", nothing},
	{"no ufrag", alice, near, "POST /tunnel", sdp, without("a=ice-ufrag"), 400, "bad_offer", "", nothing},
	{"password too short", alice, near, "POST /tunnel", sdp, replace("P2uYro0UCOQ4zxjKXaWCBui1", "short"), 400, "bad_offer", "", nothing},
	{"password of 300 characters", alice, near, "POST /tunnel", sdp, replace("P2uYro0UCOQ4zxjKXaWCBui1", strings.Repeat("x", 300)), 400, "bad_offer", "", nothing},
	{"ICE-lite", alice, near, "POST /tunnel", sdp, replace("a=group", "a=ice-lite\r\na=group"), 422, "bad_offer", "", nothing},
	{"no mid", alice, near, "POST /tunnel", sdp, without("a=mid"), 400, "bad_offer", "", nothing},
	{"another SCTP port", alice, near, "POST /tunnel", sdp, replace("sctp-port:5000", "sctp-port:5001"), 422, "bad_offer", "", nothing},
	{"messages of 1,023 bytes", alice, near, "POST /tunnel", sdp, replace(":262144", ":1023"), 422, "bad_offer", "", nothing},

	// Candidates: a gateway ignores them, and still counts them.
	{"10,000 candidates", alice, near, "POST /tunnel", sdp, offer + strings.Repeat(candidate, 10_000), 413, "too_large", "", nothing},
	{"65 candidates", alice, near, "POST /tunnel", sdp, offer + strings.Repeat(candidate, 65), 400, "bad_offer", "", nothing},
	{"64 candidates", alice, near, "POST /tunnel", sdp, offer + strings.Repeat(candidate, 64), 201, "", "Content-Type: application/sdp", handshake},
	{".local and loopback candidates", alice, near, "POST /tunnel", sdp, offer + unwanted, 201, "", "", handshake},
	{"candidates that are none", alice, near, "POST /tunnel", sdp, offer + "a=candidate:\r\na=candidate:1 1 tcp x y z\r\n", 201, "", "", handshake},

	// Pages.
	{"foreign origin", alice, near, "POST /tunnel", sdp + "Origin: https://evil.example\n", offer, 403, "forbidden_origin", "", nothing},
	{"listed origin's neighbour", alice, near, "POST /tunnel", sdp + "Origin: https://app.example.com.evil.example\n", offer, 403, "forbidden_origin", "", nothing},
	{"listed origin without TLS", alice, near, "POST /tunnel", sdp + "Origin: http://app.example.com\n", offer, 403, "forbidden_origin", "", nothing},
	{"null origin", alice, near, "POST /tunnel", sdp + "Origin: null\n", offer, 403, "forbidden_origin", "", nothing},
	{"malformed origin", alice, near, "POST /tunnel", sdp + "Origin: https://app.example.com/path\n", offer, 403, "forbidden_origin", "", nothing},
	{"two origins", alice, near, "POST /tunnel", sdp + "Origin: https://app.example.com\nOrigin: https://evil.example\n", offer, 403, "forbidden_origin", "", nothing},
	{"rebound origin", alice, near, "POST /tunnel", sdp + "Host: rebound.example:8080\nOrigin: http://rebound.example:8080\n", offer, 403, "forbidden_origin", "", nothing},
	{"rebound origin, https", alice, near, "POST /tunnel", sdp + "Host: rebound.example\nOrigin: https://rebound.example\n", offer, 403, "forbidden_origin", "", nothing},
	{"cross-site without an origin", alice, near, "POST /tunnel", sdp + "Sec-Fetch-Site: cross-site\n", offer, 403, "forbidden_origin", "", nothing},
	{"foreign preflight", nobody, near, "OPTIONS /tunnel", "Origin: https://evil.example\nAccess-Control-Request-Method: POST\n", "", 403, "forbidden_origin", "", nothing},
	{"foreign page reads targets", alice, near, "GET /tunnel/targets", "Origin: https://evil.example\n", "", 403, "forbidden_origin", "", nothing},
	{"foreign page ends a session", alice, near, "DELETE {open}", "Origin: https://evil.example\n", "", 403, "forbidden_origin", "", nothing},
	{"foreign page renews", alice, near, "POST {open}/renew", "Origin: null\n", "", 403, "forbidden_origin", "", nothing},
	{"listed origin", alice, near, "POST /tunnel", sdp + "Origin: https://app.example.com\n", offer, 201, "", "Access-Control-Allow-Origin: https://app.example.com", handshake},
	{"own origin, a loopback name", alice, near, "POST /tunnel", sdp + "Origin: http://127.0.0.1:8080\n", offer, 201, "", "", handshake},

	// Plain HTTP.
	{"plain HTTP from afar", alice, afar, "POST /tunnel", sdp, offer, 403, "not_allowed", "", nothing},
	{"from afar, who says it is https", alice, afar, "POST /tunnel", sdp + "X-Forwarded-Proto: https\n", offer, 403, "not_allowed", "", nothing},
	{"from afar, who says it is near", alice, afar, "POST /tunnel", sdp + "Host: 127.0.0.1:8080\nX-Forwarded-For: 127.0.0.1\n", offer, 403, "not_allowed", "", nothing},
	{"from afar through a proxy that is not trusted", alice, near, "POST /tunnel", sdp + "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: https\n", offer, 403, "not_allowed", "", nothing},
	{"DELETE from afar", alice, afar, "DELETE {open}", "", "", 403, "not_allowed", "", nothing},
	{"PATCH from afar", alice, afar, "PATCH {open}", fragment + "If-Match: {tag}\n", section + candidate, 403, "not_allowed", "", nothing},
	{"renew from afar", alice, afar, "POST {open}/renew", "", "", 403, "not_allowed", "", nothing},

	// Somebody else.
	{"nobody's offer", nobody, near, "POST /tunnel", sdp, offer, 401, "unauthenticated", "Www-Authenticate: Bearer realm=\"webrtc_tunnel\"", nothing},
	{"nobody reads targets", nobody, near, "GET /tunnel/targets", "", "", 401, "unauthenticated", "", nothing},
	{"nobody's DELETE", nobody, near, "DELETE {open}", "", "", 401, "unauthenticated", "", nothing},
	{"an identity that Caddy does not know", alice, near, "POST /unresolved", sdp, offer, 401, "unauthenticated", "", nothing},
	{"an identity that looks like a placeholder", "{env.PATH}", near, "POST /tunnel", sdp, offer, 201, "", "", handshake},
	{"another identity's PATCH", bob, near, "PATCH {open}", fragment + "If-Match: {tag}\n", section + candidate, 404, "not_found", "", nothing},
	{"another identity's restart", bob, near, "PATCH {open}", fragment + "If-Match: *\n", credentials + section, 404, "not_found", "", nothing},
	{"another identity's DELETE", bob, near, "DELETE {open}", "", "", 404, "not_found", "", nothing},
	{"another identity's renew", bob, near, "POST {open}/renew", "", "", 404, "not_found", "", nothing},
	{"another identity's status", bob, near, "GET {open}/status", "", "", 404, "not_found", "", nothing},
	{"another identity looks whether it is there", bob, near, "GET {open}", "", "", 404, "not_found", "", nothing},
	{"another endpoint's DELETE", alice, near, "DELETE {other}", "", "", 404, "not_found", "", nothing},
	{"another endpoint's status", alice, near, "GET {other}/status", "", "", 404, "not_found", "", nothing},
	{"a guessed session", alice, near, "DELETE /tunnel/s/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "", "", 404, "not_found", "", nothing},
	{"a session's URL cut short", alice, near, "DELETE {open}-", "", "", 404, "not_found", "", nothing},

	// Targets.
	{"unknown target", alice, near, "POST /tunnel?target=nosuch", sdp, offer, 404, "unknown_target", "", nothing},
	{"another identity's target", alice, near, "POST /tunnel?target=bobs", sdp, offer, 403, "not_allowed", "", nothing},
	{"a target that cannot be", alice, near, "POST /tunnel?target=..%2Fssh", sdp, offer, 404, "unknown_target", "", nothing},
	{"an address for a target", alice, near, "POST /tunnel?target=tcp/127.0.0.1:9000", sdp, offer, 404, "unknown_target", "", nothing},
	{"an empty target", alice, near, "POST /tunnel?target=", sdp, offer, 404, "unknown_target", "", nothing},
	{"two targets", alice, near, "POST /tunnel?target=echo&target=bobs", sdp, offer, 400, "protocol_error", "", nothing},
	{"a malformed query", alice, near, "POST /tunnel?target=%zz", sdp, offer, 400, "protocol_error", "", nothing},

	// Methods.
	{"PUT of the endpoint", alice, near, "PUT /tunnel", sdp, offer, 405, "method_not_allowed", "Allow: POST, GET, HEAD, OPTIONS", nothing},
	{"DELETE of the endpoint", alice, near, "DELETE /tunnel", "", "", 405, "method_not_allowed", "Allow: POST, GET, HEAD, OPTIONS", nothing},
	{"POST of the page", alice, near, "POST /tunnel/", sdp, offer, 405, "method_not_allowed", "Allow: GET, HEAD, OPTIONS", nothing},
	{"POST of targets", alice, near, "POST /tunnel/targets", sdp, offer, 405, "method_not_allowed", "Allow: GET, HEAD, OPTIONS", nothing},
	{"PUT of a session", alice, near, "PUT {open}", sdp, offer, 405, "method_not_allowed", "Allow: PATCH, DELETE, GET, HEAD, OPTIONS", nothing},
	{"POST of a session", alice, near, "POST {open}", sdp, offer, 405, "method_not_allowed", "Allow: PATCH, DELETE, GET, HEAD, OPTIONS", nothing},
	{"GET of renew", alice, near, "GET {open}/renew", "", "", 405, "method_not_allowed", "Allow: POST, OPTIONS", nothing},
	{"DELETE of status", alice, near, "DELETE {open}/status", "", "", 405, "method_not_allowed", "Allow: GET, HEAD, OPTIONS", nothing},
	{"a method of nobody's", alice, near, "BREW /tunnel", "", "", 405, "method_not_allowed", "Allow: POST, GET, HEAD, OPTIONS", nothing},

	// Paths.
	{"unknown path", alice, near, "GET /tunnel/nosuch", "", "", 404, "not_found", "", nothing},
	{"unknown path, changed", alice, near, "POST /tunnel/nosuch", sdp, offer, 404, "not_found", "", nothing},
	{"two slashes", alice, near, "GET /tunnel//targets", "", "", 404, "not_found", "", nothing},
	{"no secret", alice, near, "DELETE /tunnel/s/", "", "", 404, "not_found", "", nothing},
	{"below a session", alice, near, "GET {open}/nosuch", "", "", 404, "not_found", "", nothing},
	{"secret of 1,000 bytes", alice, near, "DELETE /tunnel/s/" + strings.Repeat("a", 1000), "", "", 404, "not_found", "", nothing},
	{"dots", alice, near, "GET /tunnel/../tunnel/targets", "", "", 404, "not_found", "", nothing},
	{"a longer name", alice, near, "GET /tunnelfoo", "", "", 418, "", "", nothing},

	// PATCH.
	{"PATCH without If-Match", alice, near, "PATCH {open}", fragment, section + candidate, 428, "precondition_failed", "", nothing},
	{"PATCH of an old ETag", alice, near, "PATCH {open}", fragment + "If-Match: \"old\"\n", section + candidate, 412, "precondition_failed", "", nothing},
	{"PATCH of a weak ETag", alice, near, "PATCH {open}", fragment + "If-Match: W/{tag}\n", section + candidate, 412, "precondition_failed", "", nothing},
	{"restart while connecting", alice, near, "PATCH {fresh}", fragment + "If-Match: *\n", credentials + section, 409, "conflict", "", nothing},
	{"restart under an ETag", alice, near, "PATCH {open}", fragment + "If-Match: {tag}\n", credentials + section, 422, "bad_offer", "", nothing},
	{"restart without credentials", alice, near, "PATCH {open}", fragment + "If-Match: *\n", section + candidate, 400, "bad_offer", "", nothing},
	{"restart with a short password", alice, near, "PATCH {open}", fragment + "If-Match: *\n", "a=ice-ufrag:abcd\r\na=ice-pwd:short\r\n" + section, 400, "bad_offer", "", nothing},
	{"restart of another section", alice, near, "PATCH {open}", fragment + "If-Match: *\n", credentials + strings.Replace(section, "mid:0", "mid:7", 1), 400, "bad_offer", "", nothing},
	{"PATCH of the wrong type", alice, near, "PATCH {open}", sdp + "If-Match: {tag}\n", section + candidate, 415, "unsupported_media", "Accept-Patch: application/trickle-ice-sdpfrag", nothing},
	{"PATCH without a body", alice, near, "PATCH {open}", fragment + "If-Match: {tag}\n", "", 400, "bad_offer", "", nothing},
	{"PATCH with no fragment", alice, near, "PATCH {open}", fragment + "If-Match: {tag}\n", "hello", 400, "bad_offer", "", nothing},
	{"PATCH with two sections", alice, near, "PATCH {open}", fragment + "If-Match: {tag}\n", section + section + candidate, 400, "bad_offer", "", nothing},
	{"PATCH of 65 candidates", alice, near, "PATCH {fresh}", fragment + "If-Match: {freshtag}\n", section + strings.Repeat(candidate, 65), 400, "bad_offer", "", nothing},
	{"PATCH of 10,000 candidates", alice, near, "PATCH {fresh}", fragment + "If-Match: {freshtag}\n", section + strings.Repeat(candidate, 10_000), 413, "too_large", "", nothing},
	{"PATCH of .local and loopback candidates", alice, near, "PATCH {fresh}", fragment + "If-Match: {freshtag}\n", section + unwanted, 204, "", "", nothing},
	{"PATCH of candidates", alice, near, "PATCH {fresh}", fragment + "If-Match: {freshtag}\n", section + candidate, 204, "", "", nothing},
}

// unwanted are candidates that nobody may be made to talk to: one by a name of
// multicast DNS, and addresses of the gateway's own machine, where a trap waits
// for packets.
const unwanted = "a=candidate:1 1 udp 2113937151 5e0b6b43-0c23-4f13-9f2a-7f2f2d0c0f3a.local 9003 typ host\r\n" +
	"a=candidate:2 1 udp 2113937150 127.0.0.1 9003 typ host\r\n" +
	"a=candidate:3 1 udp 2113937149 ::1 9003 typ host\r\n" +
	"a=candidate:4 1 udp 2113937148 localhost 9003 typ host\r\n" +
	"a=candidate:5 1 udp 1677732095 127.0.0.1 9003 typ srflx raddr 127.0.0.1 rport 9003\r\n"

// peerRow is the offer of a real peer with a change on its way to the gateway.
type peerRow struct {
	name   string
	change func(offer string) string

	opens bool   // whether the peer's channel opens
	code  string // how the tunnel ends, in the gateway's log; it leaves nothing
}

var offers = []peerRow{
	{"unchanged", func(s string) string { return s }, true, "tunnel_closed"},
	{".local and loopback candidates", func(s string) string { return withoutLines(s, "a=candidate") + unwanted }, true, "tunnel_closed"},
	{"wrong fingerprint", func(s string) string { return digests.ReplaceAllString(s, "sha-256 "+digest) }, false, "tunnel_lost"},
	{"wrong password", func(s string) string { return passwords.ReplaceAllString(s, "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1") }, false, "timeout"},
}

// channel is how a client opens a data channel.
type channel struct {
	label, protocol string
	unordered       bool
	retransmits     int // at most so many times; 0: until it is there, -1: never
	lifetime        int // ms; 0: until it is there
}

var session = channel{label: "tunnel", protocol: "culvert.2"}

// besideRow is a channel that a client opens beside its session: the gateway
// closes it, the session goes on, and the DELETE of it leaves nothing.
type besideRow struct {
	name    string
	channel channel
	code    string // in the status of the session, where a raw channel ends; empty: none of it
}

var besides = []besideRow{
	{"second session channel", session, ""},
	{"session of dialect 1, which is not admitted", channel{protocol: ""}, ""},
	{"unknown protocol", channel{protocol: "culvert.3"}, ""},
	{"protocol of another case", channel{protocol: "Culvert.2"}, ""},
	{"datagrams in order", channel{protocol: "culvert.2.datagrams", retransmits: -1}, ""},
	{"datagrams that are sent until they are there", channel{protocol: "culvert.2.datagrams", unordered: true}, ""},
	{"label of 257 bytes", channel{label: strings.Repeat("l", 257), protocol: "raw:echo"}, ""},
	{"protocol of 257 bytes", channel{protocol: "raw:" + strings.Repeat("p", 253)}, ""},
	{"raw channel to an unknown target", channel{protocol: "raw:nosuch"}, "unknown_target"},
	{"raw channel to nothing", channel{protocol: "raw:"}, "unknown_target"},
	{"raw channel to an address", channel{protocol: "raw:tcp/127.0.0.1:9000"}, "unknown_target"},
	{"raw channel to another identity's target", channel{protocol: "raw:bobs"}, "not_allowed"},
	{"raw channel, unordered", channel{protocol: "raw:echo", unordered: true}, ""},
	{"raw channel, unreliable", channel{protocol: "raw:echo", retransmits: -1}, ""},
}

// firstRow is a tunnel's only channel and what is sent in it. It leaves nothing,
// and the gateway says nothing but what ends it.
type firstRow struct {
	name    string
	channel channel
	send    []byte
	text    bool   // as a text message
	code    string // how the tunnel ends, in the gateway's log
}

var firsts = []firstRow{
	{"garbage", session, []byte(strings.Repeat("garbage;", 8)), false, "protocol_error"},
	{"zero bytes", session, make([]byte, 64), false, "protocol_error"},
	{"HTTP", session, []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), false, "protocol_error"},
	{"a length of 4 GiB", session, append(make([]byte, 12), 0xff, 0xff, 0xff, 0xff), false, "protocol_error"},
	{"a message of 65,537 bytes", session, make([]byte, 65_537), false, "protocol_error"},
	{"data before Hello", session, framecodec.AppendFrame(nil, 1, 0, []byte("data")), false, "protocol_error"},
	{"Open before Hello", session, framecodec.Open{Conn: 1, Kind: framecodec.KindNamed, Host: []byte("echo")}.AppendFrame(nil, 0), false, "protocol_error"},
	{"frames of dialect 1", session, framecodec.OpenConnection{Conn: 1}.AppendFrame(nil, 1_700_000_000_000), false, "protocol_error"},
	{"text instead of binary", session, []byte("hello, is this a shell?"), true, "protocol_error"},
	{"session channel, unordered", channel{protocol: "culvert.2", unordered: true}, hello, false, "timeout"},
	{"session channel, few retransmissions", channel{protocol: "culvert.2", retransmits: 3}, hello, false, "timeout"},
	{"session channel, short-lived messages", channel{protocol: "culvert.2", lifetime: 100}, hello, false, "timeout"},
	{"dialect 1, which is not admitted", channel{protocol: ""}, framecodec.Ping{}.AppendFrame(nil, 1_700_000_000_000), false, "timeout"},
	{"unknown protocol", channel{protocol: "chat"}, hello, false, "timeout"},
	{"label of 257 bytes", channel{label: strings.Repeat("l", 257), protocol: "culvert.2"}, hello, false, "timeout"},
}

// hello is what a session answers.
var hello = framecodec.Hello{Version: framecodec.Version, MaxPayload: framecodec.MaxPayload2, StreamWindow: 1 << 20, SessionWindow: 1 << 24}.AppendFrame(nil, 0)

// hostRow is a host as a client names it: to an entry by SOCKS5 and so through a
// tunnel, and to explain. Both say the same, whatever the host leads to is not
// dialled, and a name is looked up at most once. {here} stands for the machine's
// own address on its cable, {there} for the one at the other end, port 0 for that
// of the gateway's admin API.
type hostRow struct {
	name string
	who  string
	host string
	port uint16

	code string
	rule string // of explain
}

var hosts = []hostRow{
	{"two numbers", alice, "127.1", 9001, "not_allowed", "host"},
	{"hexadecimal", alice, "0x7f000001", 9001, "not_allowed", "host"},
	{"hexadecimal part", alice, "0x7f.0.0.1", 9001, "not_allowed", "host"},
	{"one number", alice, "2130706433", 9001, "not_allowed", "host"},
	{"octal", alice, "0177.0.0.1", 9001, "not_allowed", "host"},
	{"leading zeros", alice, "127.000.000.001", 9001, "not_allowed", "host"},
	{"final dot", alice, "127.0.0.1.", 9001, "not_allowed", "host"},
	{"wide digits", alice, "１２７.0.0.1", 9001, "not_allowed", "host"},
	{"zone", alice, "fe80::1%lo", 9001, "not_allowed", "host"},
	{"too long", alice, strings.Repeat("a.", 126) + "aaa", 9001, "not_allowed", "host"},
	{"short form of what is allowed", bob, "127.1", 9000, "not_allowed", "host"},

	{"loopback", alice, "127.0.0.1", 9001, "not_allowed", "addresses.loopback"},
	{"loopback, IPv6", alice, "::1", 9001, "not_allowed", "addresses.loopback"},
	{"mapped", alice, "::ffff:127.0.0.1", 9001, "not_allowed", "addresses.loopback"},
	{"compatible", alice, "::127.0.0.1", 9001, "not_allowed", "addresses.loopback"},
	{"NAT64", alice, "64:ff9b::7f00:1", 9001, "not_allowed", "addresses.loopback"},
	{"local NAT64", alice, "64:ff9b:1::7f00:1", 9001, "not_allowed", "addresses.reserved"},
	{"6to4", alice, "2002:7f00:1::", 9001, "not_allowed", "addresses.loopback"},
	{"localhost", alice, "localhost", 9001, "not_allowed", "addresses.loopback"},
	{"localhost in capitals", alice, "LOCALHOST", 9001, "not_allowed", "addresses.loopback"},
	{"unspecified", alice, "0.0.0.0", 9001, "not_allowed", "addresses.unspecified"},
	{"unspecified, IPv6", alice, "::", 9001, "not_allowed", "addresses.unspecified"},
	{"cloud metadata", alice, "169.254.169.254", 80, "not_allowed", "addresses.link_local"},
	{"cloud metadata, mapped", alice, "::ffff:169.254.169.254", 80, "not_allowed", "addresses.link_local"},
	{"cloud metadata, IPv6", alice, "fd00:ec2::254", 80, "not_allowed", "addresses.metadata"},
	{"private", alice, "{there}", 9001, "not_allowed", "addresses.private"},
	{"this machine's own address", alice, "{here}", 8080, "not_allowed", "addresses.forbidden"},
	{"shared address space", alice, "100.64.0.1", 80, "not_allowed", "addresses.shared"},
	{"multicast", alice, "224.0.0.1", 80, "not_allowed", "addresses.multicast"},
	{"broadcast", alice, "255.255.255.255", 80, "not_allowed", "addresses.broadcast"},
	{"documentation", alice, "192.0.2.1", 80, "not_allowed", "addresses.documentation"},

	{"private address behind a public name", alice, "private.example", 9001, "not_allowed", "addresses.private"},
	{"loopback behind a public name", alice, "loopback.example", 9001, "not_allowed", "addresses.loopback"},
	{"mapped address behind a public name", alice, "mapped.example", 9001, "not_allowed", "addresses.loopback"},
	{"NAT64 address behind a public name", alice, "nat64.example", 9001, "not_allowed", "addresses.loopback"},
	{"private address, name without the word private", bob, "private.example", 9001, "not_allowed", "addresses.private"},
	{"name with two addresses of which one is denied", bob, "two.example", 9000, "not_allowed", "dynamic.rules[3]"},
	{"name that changes from allowed to denied", bob, "change.example", 9000, "normal", "dynamic.rules[1]"},
	{"name that changes from denied to allowed", bob, "change-back.example", 9000, "not_allowed", "dynamic.rules[3]"},
	{"name that is not there", alice, "nosuch.example", 9001, "resolve_failed", "dynamic.rules[0]"},
	{"name that is not there, and not allowed", bob, "nosuch.invalid", 9001, "not_allowed", "dynamic"},
	{"name that is there, and not allowed", bob, "private.invalid", 9001, "not_allowed", "addresses.private"},

	{"denied", bob, "127.0.0.13", 9001, "not_allowed", "dynamic.rules[3]"},
	{"denied, mapped", bob, "::ffff:127.0.0.13", 9001, "not_allowed", "dynamic.rules[3]"},
	{"the admin endpoint", bob, "127.0.0.1", 0, "not_allowed", "addresses.forbidden"},
	{"the gateway's own site", bob, "127.0.0.1", 8080, "not_allowed", "addresses.forbidden"},
	{"an entry", bob, "127.0.0.1", 1081, "not_allowed", "addresses.forbidden"},
	{"an entry on all addresses", bob, "127.0.0.1", openSOCKS, "not_allowed", "addresses.forbidden"},
	{"nobody listens", bob, "127.0.0.1", 9002, "refused", "dynamic.rules[2]"},
	{"allowed", bob, "127.0.0.1", 9000, "normal", "dynamic.rules[2]"},
	{"allowed, mapped", bob, "::ffff:127.0.0.1", 9000, "normal", "dynamic.rules[2]"},
	{"allowed by a name and its address", bob, "echo.example", 9000, "normal", "dynamic.rules[1]"},
}

func (c channel) init() *webrtc.DataChannelInit {
	ordered := !c.unordered
	init := &webrtc.DataChannelInit{Protocol: &c.protocol, Ordered: &ordered}
	if c.retransmits != 0 {
		n := uint16(max(c.retransmits, 0))
		init.MaxRetransmits = &n
	}
	if c.lifetime != 0 {
		ms := uint16(c.lifetime)
		init.MaxPacketLifeTime = &ms
	}
	return init
}
