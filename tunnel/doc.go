// Package tunnel is the engine: it carries many streams over one Carrier, fairly
// and within bounded memory. It knows frames (package framecodec), not WebRTC,
// sockets or configuration.
//
//	Endpoint -- TryRead --> Session -- WriteMessage --> Carrier     sender
//	Endpoint <- TryWrite -- Session <-- ReadMessage --- Carrier     receiver
//
// A Session is one side of an association. Open asks the peer for a Stream;
// Config.Accept is called for each one that the peer asks for. A stream's local
// end is an Endpoint: a socket of package reactor, or NewConn's, whose other side
// is a net.Conn. Every end has a Code, which Error carries.
//
// Goroutines: two a Session, its receiver and its sender, and one coarse clock
// for all sessions of the process. None is there for a stream.
//
// Locks: Stream.mu, then Session.mu; Conn.mu is taken under Stream.mu. None is
// held while a Carrier, an Observer or Accept is called. A Bucket's own is taken
// under Stream.mu, and takes no other.
package tunnel
