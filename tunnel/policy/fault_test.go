package policy

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
)

// allowing is a dynamic block of rules that allow.
func allowing(texts ...string) *Dynamic {
	d := &Dynamic{}
	for _, text := range texts {
		d.Rules = append(d.Rules, Rule{Text: text})
	}
	return d
}

// What a failure says of the target.
func TestAtFault(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{context.Canceled, false},
		{dialError(t.Context(), refused), true},
		{dialError(t.Context(), context.Canceled), false},
		{dialError(t.Context(), os.ErrDeadlineExceeded), true},
		{hurried(dialError(t.Context(), os.ErrDeadlineExceeded)), false},
		{hurried(dialError(t.Context(), refused)), true}, // it answered
		{dialError(t.Context(), syscall.EHOSTUNREACH), true},
		{dialError(t.Context(), syscall.EMFILE), false},
		{dialError(t.Context(), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}), false},
		{resolveError(t.Context(), &net.DNSError{IsNotFound: true}), true},
		{resolveError(t.Context(), &net.DNSError{UnwrapErr: syscall.EMFILE}), false},
		{Decision{Code: framecodec.CodeNotAllowed}.Err(), false},
		{Decision{Code: framecodec.CodeUnknownTarget}.Err(), false},
	} {
		if got := AtFault(tt.err); got != tt.want {
			t.Errorf("%v: at fault is %v", tt.err, got)
		}
	}
}

// Whoever stood in line for most of its time has not shown that the target does
// not answer.
func TestWaitingIsNotTheTargetsFault(t *testing.T) {
	p := mustNew(t, Config{Targets: []NamedTarget{{Name: "pc", Addresses: []string{"tcp/10.0.0.1:1"}}}, Dynamic: allowing("tcp/10.0.0.0/8:1")})
	r := &recorder{dead: []string{"10.0.0.1:1"}}
	for _, tt := range []struct {
		wait time.Duration
		want bool
	}{{0, true}, {250 * time.Millisecond, false}, {time.Hour, false}} {
		var told []error
		d := Dialer{
			Connect: r.connect,
			Admit: func(Address, RuleRef) (func(error), error) {
				return func(err error) { told = append(told, err) }, nil
			},
			Line: func(ctx context.Context, _ Address) (func(), error) {
				select {
				case <-time.After(tt.wait):
					return func() {}, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			},
		}
		_, _, err := d.Dial(within(t, 300*time.Millisecond), p, Subject{}, named("pc"))
		if tunnel.CodeOf(err) != framecodec.CodeTimeout || AtFault(err) != tt.want {
			t.Errorf("after %v in line: %v, at fault %v", tt.wait, err, AtFault(err))
		}
		if len(told) != 0 {
			t.Error("asked for a named target")
		}
		_, _, _ = d.Dial(within(t, 300*time.Millisecond), p, Subject{}, tcp("10.0.0.1", 1))
		if tt.wait == time.Hour && len(told) != 0 || tt.wait < time.Hour && (len(told) != 1 || AtFault(told[0]) != tt.want) {
			t.Errorf("after %v in line: told %v", tt.wait, told)
		}
	}
}

// Admit is asked for each address with the rule that allows it; one that is
// refused is not dialled, and the others are.
func TestAdmit(t *testing.T) {
	p := mustNew(t, Config{Endpoint: "gw", Dynamic: allowing("tcp/10.0.0.0/8:22", "tcp/*.example:443 private")})
	open := &tunnel.Error{Code: framecodec.CodeBreakerOpen}
	var asked []string
	refuse := ""
	r := &recorder{}
	d := Dialer{Resolver: zone{"two.example": {"10.0.0.1", "10.0.0.2"}}, Connect: r.connect, Admit: func(a Address, by RuleRef) (func(error), error) {
		asked = append(asked, a.String()+" "+by.Endpoint+" "+by.String())
		if refuse == "all" || refuse == a.String() {
			return nil, open
		}
		return func(err error) {
			if err != nil {
				t.Errorf("told %v", err)
			}
		}, nil
	}}
	for _, tt := range []struct {
		refuse string
		target tunnel.Target
		asked  string
		want   tunnel.Code
	}{
		{"", tcp("10.0.0.9", 22), "10.0.0.9:22 gw dynamic.rules[0]", 0},
		{"10.0.0.1:443", tcp("two.example", 443), "10.0.0.1:443 gw dynamic.rules[1], 10.0.0.2:443 gw dynamic.rules[1]", 0},
		{"all", tcp("two.example", 443), "10.0.0.1:443 gw dynamic.rules[1], 10.0.0.2:443 gw dynamic.rules[1]", framecodec.CodeBreakerOpen},
		{"", tcp("two.example", 22), "10.0.0.1:22 gw dynamic.rules[0]", 0},
	} {
		asked, refuse, r.dialled = nil, tt.refuse, nil
		c, _, err := d.Dial(within(t, 10*time.Second), p, Subject{}, tt.target)
		if tunnel.CodeOf(err) != tt.want || strings.Join(asked, ", ") != tt.asked {
			t.Errorf("%v: %v, asked %q", tt.target, err, asked)
		}
		if err == nil {
			_ = c.Close()
		} else if !errors.Is(err, open) || len(r.dialled) != 0 {
			t.Errorf("%v, dialled %v", err, r.dialled)
		}
	}
}
