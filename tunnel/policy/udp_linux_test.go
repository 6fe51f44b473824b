package policy

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// A socket of a flow may send to a broadcast address only where the operator
// wrote that address.
func TestFlowsAndBroadcast(t *testing.T) {
	_, port := packets(t)
	p := mustNew(t, Config{
		Targets: []NamedTarget{
			{Name: "exact", Addresses: []string{fmt.Sprintf("udp/127.0.0.1:%d", port)}},
			{Name: "wake", Addresses: []string{"udp/127.255.255.255:9"}},
		},
		Dynamic: &Dynamic{Rules: []Rule{{Text: "udp/127.0.0.0/8:1-65535"}}},
	})
	d := Dialer{Keepalive: 15 * time.Second}
	for _, tt := range []struct {
		target tunnel.Target
		want   int
	}{{flow("exact"), 1}, {flow("wake"), 1}, {udp("127.0.0.1", port), 0}} {
		c, _, err := d.Dial(within(t, 5*time.Second), p, Subject{}, tt.target)
		if err != nil {
			t.Errorf("%v: %v", tt.target, err)
			continue
		}
		if got, err := option(t, c, unix.SOL_SOCKET, unix.SO_BROADCAST); err != nil || got != tt.want {
			t.Errorf("%v: SO_BROADCAST is %d, %v", tt.target, got, err)
		}
		_ = c.Close()
	}
	if _, _, err := d.Dial(within(t, 5*time.Second), p, Subject{}, udp("127.255.255.255", 9)); tunnel.CodeOf(err) != framecodec.CodeUnreachable {
		t.Errorf("a client's broadcast by a CIDR: %v", err)
	}
}
