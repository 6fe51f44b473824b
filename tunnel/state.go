package tunnel

// half is the state of one direction of a stream.
type half uint8

const (
	halfOpen     half = iota
	halfFinished      // ended in order: Finish, SendEOF
	halfReset         // cut
)

// streamState is where a stream is: whether the side that was asked has answered,
// and one half per direction.
type streamState struct {
	opened bool
	send   half // from our Endpoint to the peer
	recv   half // from the peer to our Endpoint, as far as it was delivered
}

// event is what can happen to a stream.
type event uint8

const (
	eventOpened   event = iota // Opened was received, or Attach was called
	eventLocalEnd              // the Endpoint's data has ended and all of it was sent
	eventPeerEnd               // the peer's data has ended and all of it was delivered
	eventReset                 // either side cut the stream
)

// over reports whether nothing can happen to the stream any more.
func (s streamState) over() bool { return s.send != halfOpen && s.recv != halfOpen }

// next is the only place where a stream changes its state:
//
//	event     | opened | send                 | recv
//	opened    | true   | -                    | -
//	local end | -      | open -> finished     | -
//	peer end  | -      | -                    | open -> finished
//	reset     | -      | open -> reset        | open -> reset
//
// What is finished or reset stays so; a second event of a kind changes nothing.
func (s streamState) next(ev event) streamState {
	switch ev {
	case eventOpened:
		s.opened = true
	case eventLocalEnd:
		if s.send == halfOpen {
			s.send = halfFinished
		}
	case eventPeerEnd:
		if s.recv == halfOpen {
			s.recv = halfFinished
		}
	case eventReset:
		if s.send == halfOpen {
			s.send = halfReset
		}
		if s.recv == halfOpen {
			s.recv = halfReset
		}
	}
	return s
}
