package rtc

import "testing"

func TestEcho(t *testing.T) {
	checkLeaks(t)
	p := connect(t, testGateway(t, Options{}), testDialer(DialerConfig{}))
	for _, message := range []string{"hello", "", "x", string(make([]byte, MaxMessage))} {
		write(t, p.clientChannel, message)
		if got := read(t, p.serverChannel); got != message {
			t.Fatalf("the gateway read %d bytes, %d were sent", len(got), len(message))
		}
		write(t, p.serverChannel, message)
		if got := read(t, p.clientChannel); got != message {
			t.Fatalf("the client read %d bytes, %d were sent", len(got), len(message))
		}
	}
	c := p.serverChannel
	if c.Label() != "tunnel" || c.Protocol() != "culvert.2" || !c.Ordered() || !c.Reliable() || c.MaxMessage() != MaxMessage {
		t.Errorf("channel %q %q ordered=%v reliable=%v max=%d", c.Label(), c.Protocol(), c.Ordered(), c.Reliable(), c.MaxMessage())
	}
}
