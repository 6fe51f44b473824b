package gateway

import (
	"net"
	"testing"
	"time"

	"github.com/culvertgate/culvert/tunnel"
)

// fill keeps a page's carrier full until the channel has ended.
func (w *wire) fill() {
	part := make([]byte, 60000)
	for {
		if closed, _ := w.end(); closed || w.WriteMessage(part) != nil {
			return
		}
		for w.Buffered() > 1<<20 {
			if closed, _ := w.end(); closed {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// A raw channel has the tunnel's rate or its own, whichever is less, in both
// directions; what it may not have waits at whoever sends.
func TestRawRates(t *testing.T) {
	const rate = 400 << 10
	both := func(tunnelRate, stream int64) tunnel.Rates {
		return tunnel.Rates{Out: tunnel.NewBucket(tunnelRate), In: tunnel.NewBucket(tunnelRate), Stream: stream}
	}
	for name, rates := range map[string]tunnel.Rates{
		"tunnel": both(rate, 2*rate), "stream": both(3*rate, rate),
	} {
		for _, in := range []bool{false, true} {
			direction := map[bool]string{false: "out", true: "in"}[in]
			t.Run(name+"/"+direction, func(t *testing.T) {
				r := openRaw(t)
				r.exit.SetRates(rates)
				page := r.start("echo")
				took := make(chan int, 1<<16)
				if in {
					go page.fill()
					go count(r.target, took)
				} else {
					if err := page.WriteMessage(nil); err != nil {
						t.Fatal(err)
					}
					go pour(r.target)
					go func() {
						buf := make([]byte, 65536)
						for page.Wait() == nil {
							n, err := page.ReadMessage(buf)
							if err != nil {
								return
							}
							took <- n
						}
					}()
				}
				sum := func(d time.Duration) (n int) {
					for end := time.After(d); ; {
						select {
						case k := <-took:
							n += k
						case <-end:
							return n
						}
					}
				}
				if n := sum(1500 * time.Millisecond); n > rate*11/4 {
					t.Errorf("%d bytes in the first 1.5 s at %d a second", n, rate)
				}
				from := time.Now()
				n := float64(sum(2*time.Second)) / time.Since(from).Seconds()
				if n < 0.85*rate || n > 1.15*rate {
					t.Errorf("%.0f bytes a second of %d", n, rate)
				}
				// A reload counts at once, and so does the end of a channel that waits.
				r.exit.SetRates(tunnel.Rates{})
				if n := sum(time.Second); n < 4*rate {
					t.Errorf("%d bytes in a second without a limit", n)
				}
				r.exit.SetRates(both(0, 1))
				sum(200 * time.Millisecond)
				r.exit.Close()
				from = time.Now()
				r.end(t)
				r.exit.Wait()
				if late := time.Since(from); late > 500*time.Millisecond {
					t.Errorf("the channel's end took %v", late)
				}
			})
		}
	}
}

func count(c net.Conn, took chan<- int) {
	buf := make([]byte, 65536)
	for {
		n, err := c.Read(buf)
		took <- n
		if err != nil {
			return
		}
	}
}

func pour(c net.Conn) {
	for buf := make([]byte, 65536); ; {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}
