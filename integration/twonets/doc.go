// Package twonets proves what needs more than one machine: a gateway in one
// network namespace, its client in another, targets in a third, and cables of
// the test kit in between, which delay, lose and can be cut. The programs are
// real: Caddy processes built from cmd/caddy, the SOCKS5 clients that people
// use, coturn.
//
// A test makes a world (world_linux_test.go) and has the ports in it for itself.
// Those that measure are kept out of builds with the race detector; `make
// datagrams` (environment variable CULVERT_LONG) runs the same for longer.
package twonets
