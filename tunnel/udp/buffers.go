package udp

import "fmt"

// Buffers returns the sizes of the receive and send buffer as the kernel tells
// them, in bytes of payload (Linux doubles what is asked for its own use and
// tells the double; here it is halved again); 0 where the system does not tell.
func (s *Socket) Buffers() (read, write int) { return s.read, s.write }

// Warnings returns what an operator should know about this socket, a sentence
// each: a buffer that the kernel made smaller, with the setting to change.
func (s *Socket) Warnings() []string { return s.warnings }

func (s *Socket) sizeBuffers(cfg Config) {
	wantRead, wantWrite := wanted(cfg.ReadBuffer), wanted(cfg.WriteBuffer)
	var errRead, errWrite error
	if wantRead > 0 {
		errRead = s.conn.SetReadBuffer(wantRead)
	}
	if wantWrite > 0 {
		errWrite = s.conn.SetWriteBuffer(wantWrite)
	}
	s.read, s.write = bufferSizes(s.conn)
	s.warn("receive", readSetting, s.read, wantRead, errRead)
	s.warn("send", writeSetting, s.write, wantWrite, errWrite)
}

func (s *Socket) warn(direction, setting string, got, want int, err error) {
	switch {
	case want <= 0:
	case err != nil:
		s.warnings = append(s.warnings, fmt.Sprintf("the %s buffer of the UDP socket could not be set to %d bytes: %v; raise %s", direction, want, err, setting))
	case got > 0 && got < want:
		s.warnings = append(s.warnings, fmt.Sprintf("the %s buffer of the UDP socket is %d bytes instead of %d, which costs throughput; raise %s to %d", direction, got, want, setting, want))
	}
}

func wanted(n int) int {
	if n == 0 {
		return DefaultBuffer
	}
	return n
}
