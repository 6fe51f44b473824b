package gateway

import (
	"testing"

	"github.com/culvertgate/culvert/tunnel"
)

// BenchmarkOpen is a stream from the client's Open to its Opened, with a real
// connection to a target, and its end. BenchmarkExit is the part that this
// package does of it.
func BenchmarkOpen(b *testing.B) {
	benchmarkTargets(b, func(o *office, target tunnel.Target) error {
		c, err := o.dial(target)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

func BenchmarkExit(b *testing.B) {
	benchmarkTargets(b, func(o *office, target tunnel.Target) error {
		c, _, err := o.exit.dial(o.t.Context(), o.exit.view(), target)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

func benchmarkTargets(b *testing.B, open1 func(*office, tunnel.Target) error) {
	breakers, _ := newBreakers()
	o := open(b, rules("tcp/10.0.0.0/8:22"), func(e *ExitConfig, _ *tunnel.Config) { e.Breakers = breakers })
	for _, target := range []tunnel.Target{named("echo"), tcp("10.0.0.9", 22)} {
		b.Run(target.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := open1(o, target); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
