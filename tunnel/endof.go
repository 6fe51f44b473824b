package tunnel

import (
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// Lifetime is what ends once and says how: a Session, or the connection that
// carries it.
type Lifetime interface {
	Done() <-chan struct{}
	Err() error // behind Done
}

// lastWords is how long a session may take to read what came before its
// connection's end. One that reads nothing (dialect 1, a stalled target) does not
// see the end either.
const lastWords = time.Second

// EndOf returns how both ended, once one of the two has. What the other side said
// in its last message counts before what the connection's end looked like, and
// that before "the carrier was lost". It waits for at most a second.
func EndOf(session, connection Lifetime) error {
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-session.Done():
		if err := session.Err(); CodeOf(err) != framecodec.CodeTunnelLost {
			return err
		}
	case <-timer.C:
	}
	select {
	case <-connection.Done():
		return connection.Err()
	default:
		return session.Err()
	}
}
