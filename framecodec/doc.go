// Package framecodec is the wire format of a Culvert tunnel: the envelope, the
// control messages of both dialects, and the codes by which streams and tunnels
// end. SPEC.md beside it is the normative text.
//
// A carrier moves a byte stream of frames each way. A frame belongs to one
// connection (stream) and carries its bytes, or belongs to connection 0 and
// carries a control message:
//
//	opener                                      asked side
//	Hello                        ->
//	                             <-             Hello          (dialect 2 only)
//	Open 1 "ssh", data of 1      ->
//	                             <-             Opened 1, data of 1, Window 1
//	Finish 1                     ->
//	                             <-             data of 1, Finish 1
//
// Dialect 1 is the reference system's: OpenConnection, ConnectionOpened,
// SendEOF and CloseConnection stand where dialect 2 has Open, Opened, Finish
// and Reset, and there are neither windows nor offsets.
//
// Parsing is in place: payloads, texts, hosts and names alias the input, and a
// parse that succeeds allocates nothing. A caller that keeps such a slice
// longer than the input buffer copies it. Append functions extend the slice
// they are given, like the built-in. Nothing here keeps state: all functions
// are safe for concurrent use on different buffers.
package framecodec
