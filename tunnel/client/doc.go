// Package client is the way into a tunnel: it finds a gateway, makes a peer
// connection with it and opens streams.
//
//	remote := client.NewRemote(client.Config{URLs: []string{"https://gw.example.com/tunnel"}})
//	defer remote.Close()
//	conn, err := remote.Open(ctx, "ssh") // a net.Conn
//
// A Remote keeps one tunnel for all its users: it connects with the first
// stream (or at once, Eager), and again after a loss. Dial makes a single tunnel
// without that.
//
// Errors of connecting are *StepError: which step failed, where, why, and what
// to try. Errors of opening a stream are *tunnel.Error with the gateway's code.
//
// Goroutines. A Remote has one (keep), which makes its tunnels. A Tunnel has
// two: end waits for its end, tells of it and releases everything, signal talks
// to the gateway over HTTP (candidates, ICE restart, renewal). Remote.Close and
// Tunnel.Close wait for them. None stays for a stream.
//
// Locks: Remote.mu and Tunnel.mu are leaves. Config.Progress is called under
// attempt.mu, which holds the steps in order, and takes Remote.mu.
package client
