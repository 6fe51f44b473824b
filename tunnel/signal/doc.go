// Package signal is the offer/answer exchange over HTTP, both sides: the shape
// of WHIP (RFC 9725) with the media left out. It knows net/http and the
// fragments of trickle ICE; it knows neither Caddy nor peer connections.
//
// The conversation, below a base path P:
//
//	client                                   gateway (Endpoint, Backend)
//	OPTIONS P                             →  204, Link: ICE servers (authorised callers only)
//	POST P            application/sdp     →  201, answer, Location, ETag, Link, Server-Timing
//	PATCH Location    sdpfrag, If-Match   →  204 candidates taken | 200 ICE restart, new ETag
//	POST Location/renew                   →  204, the identity's time starts anew
//	GET Location/status                   →  200, JSON of this tunnel
//	DELETE Location                       →  200
//
// Endpoint checks a request in this order: path, origin, method, transport,
// identity, media type, size, syntax; only then is Backend called. Every error
// is answered as a problem document (RFC 9457) with a code of the one
// vocabulary (framecodec.Code); none is returned to the server, whose error
// log would show the session's URL.
//
// An Endpoint and a Client are values without goroutines and without locks:
// both may be used by many goroutines once their fields are set.
package signal
