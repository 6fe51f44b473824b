package tunnel

// Carrier moves whole messages to one peer, reliably and in order: a data
// channel, a test wire. A Session reads from one goroutine (Wait, ReadMessage)
// and writes from another (WriteMessage, Buffered, NotifyLow); Close may come
// from any. After Close, or when the transport has died, Wait, ReadMessage and
// WriteMessage return an error; Wait and ReadMessage return at once.
type Carrier interface {
	// Wait returns when a message can be read, or with an error when none will
	// come any more. It holds no buffer, so that an idle session costs none.
	Wait() error
	// ReadMessage copies the next message to p and returns its length. A p that
	// is too short is an error and the message is lost or kept: the session ends.
	ReadMessage(p []byte) (int, error)
	// WriteMessage copies p and does not block: room is asked for with Buffered.
	WriteMessage(p []byte) error
	// Buffered returns the bytes accepted and not yet acknowledged by the peer.
	Buffered() int
	// NotifyLow has f called once when Buffered has fallen to mark or below, and
	// at once (from within NotifyLow) if it already is there. When the carrier has
	// ended f is called too, whatever Buffered says: nobody waits for room that
	// never comes. f must not block. A further call replaces mark and f.
	NotifyLow(mark int, f func())
	// MaxMessage is the largest message that the peer takes, in bytes.
	MaxMessage() int
	// Close ends the carrier; code is why. It is idempotent and does not block
	// for the peer.
	Close(code Code) error
}
