package gateway

import (
	"context"
	"io"
	"net"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/policy"
)

// A reload ends the streams that the new policy refuses, and no others.
func TestRecheck(t *testing.T) {
	o := open(t, rules("tcp/10.0.0.0/8:22", "tcp/*.example:443 private"))
	targets := []tunnel.Target{named("echo"), named(""), named("other"), tcp("10.0.1.1", 22), tcp("10.0.2.1", 22), tcp("good.example", 443)}
	conns := map[tunnel.Target]*tunnel.Conn{}
	for _, target := range targets {
		c, err := o.dial(target)
		if err != nil {
			t.Fatalf("%v: %v", target, err)
		}
		exchange(t, c, "before")
		conns[target] = c
	}
	next := rules("tcp/10.0.0.0/8:22", "tcp/*.example:443") // good.example led to a private address
	next.Dynamic.Rules = append(next.Dynamic.Rules, policy.Rule{Text: "10.0.2.0/24", Deny: true})
	next.Targets[1].Addresses = []string{"tcp/10.0.0.7:22"} // other has moved
	gone := []tunnel.Target{named("other"), tcp("10.0.2.1", 22), tcp("good.example", 443)}

	if n := o.exit.Recheck(mustPolicy(t, rules("tcp/10.0.0.0/8:22", "tcp/*.example:443 private"))); n != 0 {
		t.Errorf("an equal policy ended %d streams", n)
	}
	p := mustPolicy(t, next)
	o.policy.Store(p)
	if n := o.exit.Recheck(p); n != len(gone) {
		t.Errorf("ended %d streams, want %d", n, len(gone))
	}
	for target, c := range conns {
		if !slices.Contains(gone, target) {
			exchange(t, c, "after")
			_ = c.Close()
			continue
		}
		_, err := io.ReadAll(c)
		if tunnel.CodeOf(err) != framecodec.CodePolicyChanged {
			t.Errorf("%v ended with %v", target, err)
		}
	}
	if n := o.exit.Recheck(p); n != 0 {
		t.Errorf("a second look ended %d more", n)
	}
}

// What was being dialled while the policy changed is asked about again.
func TestPolicyChangesWhileDialling(t *testing.T) {
	dialling, proceed := make(chan struct{}), make(chan struct{})
	var o *office
	o = open(t, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) {
		e.Connect = func(ctx context.Context, a policy.Address, c policy.Control) (net.Conn, error) {
			conn, err := o.connect(ctx, a, c)
			close(dialling)
			<-proceed
			return conn, err
		}
	})
	done := make(chan error, 1)
	go func() {
		_, err := o.dial(tcp("10.0.0.9", 22))
		done <- err
	}()
	<-dialling
	p := mustPolicy(t, rules("tcp/10.0.0.0/8:23"))
	o.policy.Store(p)
	if n := o.exit.Recheck(p); n != 0 {
		t.Errorf("nothing is open yet, %d ended", n)
	}
	close(proceed)
	select {
	case err := <-done:
		if tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
	}
}

// What an open stream costs here is one small allocation.
func TestTagIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(policy.Address{}); n > 48 {
		t.Errorf("an Address has %d bytes", n)
	}
}

// Groups that a renewal took away end what they allowed, and what was being
// dialled is asked about again.
func TestSubjectChanges(t *testing.T) {
	dialling, proceed := make(chan struct{}, 1), make(chan struct{})
	cfg := rules()
	cfg.Targets[0].Groups, cfg.Targets[1].Groups = []string{"ops"}, []string{"dev", "ops"}
	var o *office
	o = open(t, cfg, func(e *ExitConfig, _ *tunnel.Config) {
		e.Subject = policy.Subject{Endpoint: "gw", Identity: "alice", Groups: []string{"ops"}}
		e.Connect = func(ctx context.Context, a policy.Address, c policy.Control) (net.Conn, error) {
			conn, err := o.connect(ctx, a, c)
			select {
			case dialling <- struct{}{}:
			case <-proceed:
			}
			return conn, err
		}
	})
	conns := map[string]*tunnel.Conn{}
	for _, name := range []string{"echo", "other"} {
		c, err := o.dial(named(name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		<-dialling
		conns[name] = c
	}
	dialling <- struct{}{} // the next dial waits
	done := make(chan error, 1)
	go func() {
		_, err := o.dial(named("echo"))
		done <- err
	}()
	eventually(t, "the dial is in progress", func() bool { return o.pool.Opens() == 1 })
	o.exit.SetSubject(policy.Subject{Endpoint: "gw", Identity: "alice", Groups: []string{"dev"}})
	if n := o.exit.Recheck(o.policy.Load()); n != 1 {
		t.Errorf("ended %d streams, want 1", n)
	}
	close(proceed)
	if err := <-done; tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("what was being dialled: %v", err)
	}
	if _, err := io.ReadAll(conns["echo"]); tunnel.CodeOf(err) != framecodec.CodePolicyChanged {
		t.Errorf("ended with %v", err)
	}
	exchange(t, conns["other"], "after")
	_ = conns["other"].Close()
	if _, err := o.dial(named("echo")); tunnel.CodeOf(err) != framecodec.CodeNotAllowed {
		t.Errorf("a new one: %v", err)
	}
}
