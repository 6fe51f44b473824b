// Package faultpoint marks the places where the suite of faults (docs/faults.md)
// has a goroutine of ours panic. In a build that is shipped Here is empty and
// costs nothing; with the build tag culvert_faults each point can be armed once at
// a time, and Caddy's admin API has a route for that.
package faultpoint

// Point is a kind of goroutine, or of call back, that is ours.
type Point string

// The points; those of a session are in both processes.
const (
	SessionReceiver Point = "session.receiver" // a message came
	SessionSender   Point = "session.sender"   // a message is to be filled
	SessionClock    Point = "session.clock"    // one session's turn
	DatagramReceive Point = "datagrams.receive"
	DatagramSend    Point = "datagrams.send"
	Reactor         Point = "reactor"         // a socket of a stream is ready
	GatewayOpen     Point = "gateway.open"    // a target is dialled
	GatewayTunnel   Point = "gateway.tunnel"  // the goroutine that a tunnel has
	GatewayChannel  Point = "gateway.channel" // a data channel opened
	GatewayRaw      Point = "gateway.raw"     // a raw channel is served
	Mux             Point = "rtc.mux"         // a UDP packet came
	Peer            Point = "rtc.peer"        // an event of a peer connection
	HubClock        Point = "hub.clock"       // the process's second
	Ledger          Point = "hub.ledger"      // the storage is looked at
	EntryStream     Point = "entry.stream"    // a client's connection is served
	EntryDatagrams  Point = "entry.datagrams" // a flow of a client is served
	Association     Point = "entry.associate" // a SOCKS5 association reads
	ClientKeep      Point = "client.keep"     // a remote is connected
	ClientSignal    Point = "client.signal"   // a tunnel's signalling
)
