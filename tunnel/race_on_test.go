//go:build race

package tunnel_test

// raceEnabled: sync.Pool drops values at random, and everything takes more memory.
const raceEnabled = true
