package tunnel

// readyList is a first-in first-out list of streams, linked through the streams
// themselves: joining it costs no memory. The session's lock guards it.
type readyList struct {
	head, tail *Stream
}

func (l *readyList) empty() bool { return l.head == nil }

func (l *readyList) push(st *Stream) {
	st.readyNext = nil
	if l.tail == nil {
		l.head = st
	} else {
		l.tail.readyNext = st
	}
	l.tail = st
}

func (l *readyList) pop() *Stream {
	st := l.head
	if st == nil {
		return nil
	}
	l.head = st.readyNext
	if l.head == nil {
		l.tail = nil
	}
	st.readyNext = nil
	return st
}

// controlList is the same through the second link: a stream that owes control
// frames may be waiting in a ready list as well.
type controlList struct {
	head, tail *Stream
}

func (l *controlList) empty() bool { return l.head == nil }

func (l *controlList) push(st *Stream) {
	st.controlNext = nil
	if l.tail == nil {
		l.head = st
	} else {
		l.tail.controlNext = st
	}
	l.tail = st
}

func (l *controlList) pop() *Stream {
	st := l.head
	if st == nil {
		return nil
	}
	l.head = st.controlNext
	if l.head == nil {
		l.tail = nil
	}
	st.controlNext = nil
	return st
}
