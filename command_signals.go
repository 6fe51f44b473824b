package culvert

import (
	"os"
	"os/signal"
	"syscall"
)

// notifySignals has interrupts sent to c. A closed pipe is an error of the write
// then, and not the end of the process: the gateway is still told.
func notifySignals(c chan<- os.Signal) {
	signal.Ignore(syscall.SIGPIPE)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
}

func stopSignals(c chan<- os.Signal) { signal.Stop(c) }
