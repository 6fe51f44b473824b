// Package testkit starts the real parts that the tests and the benchmark talk
// to: network namespaces with firewalls and cables, an OpenSSH server, the reference
// system's wheel, Caddy itself as a separate process. It also reads what those
// processes hold (descriptors, memory, goroutines).
//
// A part comes in two forms: OpenX returns an error and is closed by its
// caller (the benchmark), StartX takes a testing.TB, closes itself at the end
// of the test and prints the part's log when the test has failed.
//
// Goroutines: one per child process (waits for its end, stops with it), one per
// wheel (reads its answers, stops with it), and two per cable (carry its packets,
// stop with its Close). Nothing here runs in the
// background otherwise. Traffic stays on loopback or in namespaces made here.
package testkit
