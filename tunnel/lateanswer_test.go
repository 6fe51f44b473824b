package tunnel_test

import (
	"testing"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// Dialect 1: data that comes for a stream which has just ended is answered, but
// never before the peer was told how it ended.
func TestLateAnswerComesBehindTheEnd(t *testing.T) {
	const streams = 200
	r := newRaw(t, tunnel.Dialect1, tunnel.RoleGateway, func(cfg *tunnel.Config) {
		cfg.Accept = func(in *tunnel.Incoming) { _ = in.Attach(&handEnd{broken: errHandReset}, "") }
	})
	var message []byte
	for n := uint32(1); n <= streams; n++ {
		r.send(framecodec.OpenConnection{Conn: n})
		r.await(framecodec.MsgConnectionOpened)
		for range 2 { // the first ends the stream, the second is late
			message = framecodec.AppendFrame(message, n, 0, []byte("x"))
		}
	}
	r.write(message)
	told := map[uint32]bool{}
	for len(told) < streams {
		c, err := framecodec.ParseCloseConnection(r.awaitEnd(framecodec.MsgCloseConnection))
		if err != nil {
			t.Fatal(err)
		}
		if !told[c.Conn] && c.Reason == framecodec.ReasonConnectionLost {
			t.Fatalf("connection %d: the answer to late data came before the end", c.Conn)
		}
		told[c.Conn] = true
	}
}
