//go:build race

package rtc

// raceDetector: the race detector would touch its shadow of the heap floor.
const raceDetector = true
