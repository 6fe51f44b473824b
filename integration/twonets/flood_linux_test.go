//go:build !race

package twonets

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvertgate/culvert/internal/testkit"
)

// floodSize is that of a datagram: number, time when it was sent, filling.
const floodSize = 200

// flood is a stream of numbered datagrams through the client's UDP entry to an
// echo behind the gateway, all of it in this process, so that one clock times it.
type flood struct {
	rate int // datagrams a second
	time time.Duration
	bare bool // as many pass the tunnel by: what cable and machine take by themselves

	begin      time.Time
	conn       net.Conn
	bareConn   net.Conn
	there      arrivals // at the target
	back       arrivals // at the client; late since the target sent it
	bareThere  arrivals // at the gateway, of those past the tunnel
	bareBack   arrivals // at the client
	sent       int
	took       time.Duration
	mostBehind time.Duration // of the sender's own plan
}

// arrivals is what came to one end. Its goroutine owns it until the flood is over.
type arrivals struct {
	late []time.Duration
	seen []uint8 // by number
	bad  int     // not one of ours
}

func (a *arrivals) note(i uint64, late time.Duration) {
	if i >= uint64(len(a.seen)) {
		a.bad++
		return
	}
	a.late = append(a.late, late)
	a.seen[i]++
}

// twice counts the numbers that came more than once.
func (a *arrivals) twice() int {
	n := 0
	for _, s := range a.seen {
		if s > 1 {
			n++
		}
	}
	return n
}

// percentile sorts late.
func (a *arrivals) percentile(p float64) time.Duration {
	if len(a.late) == 0 {
		return -1
	}
	slices.Sort(a.late)
	return a.late[min(int(p/100*float64(len(a.late))), len(a.late)-1)]
}

func (a *arrivals) String() string {
	return fmt.Sprintf("%d arrived, %d twice, late p50 %v, p99 %v, p99.9 %v, most %v", len(a.late), a.twice(),
		a.percentile(50).Round(10*time.Microsecond), a.percentile(99).Round(10*time.Microsecond), a.percentile(99.9).Round(10*time.Microsecond), a.percentile(100).Round(10*time.Microsecond))
}

func (f *flood) now() uint64 { return uint64(time.Since(f.begin)) }

// count is how many it sends.
func (f *flood) count() int { return int(f.time.Seconds() * float64(f.rate)) }

// run sends everything and waits until what is on its way has come.
func (f *flood) run(w *world) {
	w.t.Helper()
	f.begin = time.Now()
	for _, a := range []*arrivals{&f.there, &f.back, &f.bareThere, &f.bareBack} {
		*a = arrivals{late: make([]time.Duration, 0, f.count()), seen: make([]uint8, f.count())}
	}
	server, err := w.lan.ListenPacket("udp", netip.AddrPortFrom(w.host, echoPort).String())
	if err != nil {
		w.t.Fatal(err)
	}
	f.conn = w.dial("udp", udpEntry)
	for _, c := range []any{server, f.conn} {
		_ = c.(*net.UDPConn).SetReadBuffer(4 << 20)
	}
	var wg sync.WaitGroup
	stopBare := func() {}
	if f.bare {
		stopBare = f.startBare(w, &wg)
	}
	wg.Go(func() { f.target(server.(*net.UDPConn), &f.there) })
	// The flow is opened before anything counts.
	f.warmUp(w)
	wg.Go(func() { f.receive(f.conn, &f.back) })
	f.send(w)
	quiet := time.Second + 2*w.options.cable.Path.Delay
	time.Sleep(quiet) // for what is on its way: nothing tells that no more will come
	_ = f.conn.Close()
	_ = server.Close()
	stopBare()
	wg.Wait()
}

// startBare opens the path past the tunnel: over the cable, to an echo at the
// gateway's end of it.
func (f *flood) startBare(w *world, wg *sync.WaitGroup) (stop func()) {
	w.t.Helper()
	at := netip.AddrPortFrom(w.cable.Far(), echoPort).String()
	server, err := w.far.ListenPacket("udp", at)
	if err != nil {
		w.t.Fatal(err)
	}
	f.bareConn, err = w.near.DialContext(w.t.Context(), "udp", at)
	if err != nil {
		w.t.Fatal(err)
	}
	wg.Go(func() { f.target(server.(*net.UDPConn), &f.bareThere) })
	wg.Go(func() { f.receive(f.bareConn, &f.bareBack) })
	return func() {
		_ = f.bareConn.Close()
		_ = server.Close()
	}
}

// warmUpNumber marks datagrams that do not count.
const warmUpNumber = ^uint64(0)

func (f *flood) warmUp(w *world) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, func() error {
		packet, buf := make([]byte, floodSize), make([]byte, floodSize)
		binary.BigEndian.PutUint64(packet, warmUpNumber)
		if _, err := f.conn.Write(packet); err != nil {
			return err
		}
		_ = f.conn.SetReadDeadline(time.Now().Add(time.Second))
		_, err := f.conn.Read(buf)
		_ = f.conn.SetReadDeadline(time.Time{})
		return err
	})
}

// target notes what comes and sends it back with the time of that.
func (f *flood) target(c *net.UDPConn, there *arrivals) {
	for buf := make([]byte, 4096); ; {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		now, number := f.now(), binary.BigEndian.Uint64(buf)
		if number != warmUpNumber {
			if n != floodSize {
				there.bad++
				continue
			}
			there.note(number, time.Duration(now-binary.BigEndian.Uint64(buf[8:])))
		}
		binary.BigEndian.PutUint64(buf[8:], f.now())
		_, _ = c.WriteToUDPAddrPort(buf[:n], from)
	}
}

func (f *flood) receive(c net.Conn, back *arrivals) {
	for buf := make([]byte, 4096); ; {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		now, number := f.now(), binary.BigEndian.Uint64(buf)
		switch {
		case number == warmUpNumber:
		case n != floodSize:
			back.bad++
		default:
			back.note(number, time.Duration(now-binary.BigEndian.Uint64(buf[8:])))
		}
	}
}

// send paces evenly, in steps of half a millisecond on a thread of its own,
// because the runtime's timers are coarser. Who could not run for a while
// catches up slowly, not in one burst that no queue holds.
func (f *flood) send(w *world) {
	w.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const step = 500 * time.Microsecond
	packet, begin, total := make([]byte, floodSize), time.Now(), f.count()
	atOnce := max(2*f.rate/int(time.Second/step), 1)
	for f.sent < total {
		due := min(int(time.Since(begin).Seconds()*float64(f.rate))+1, total)
		f.mostBehind = max(f.mostBehind, time.Duration(due-f.sent)*time.Second/time.Duration(f.rate))
		for range min(due-f.sent, atOnce) {
			binary.BigEndian.PutUint64(packet, uint64(f.sent))
			binary.BigEndian.PutUint64(packet[8:], f.now())
			if _, err := f.conn.Write(packet); err != nil {
				w.t.Errorf("sending: %v", err)
				return
			}
			if f.bare {
				binary.BigEndian.PutUint64(packet[8:], f.now())
				_, _ = f.bareConn.Write(packet)
			}
			f.sent++
		}
		pause := unix.NsecToTimespec(int64(step))
		_ = unix.Nanosleep(&pause, nil)
	}
	f.took = time.Since(begin)
}

// gaps are the first numbers that did not come, for people who wonder why.
func (a *arrivals) gaps() string {
	var out strings.Builder
	for i, shown := 0, 0; i < len(a.seen) && shown < 5; i++ {
		if a.seen[i] > 0 {
			continue
		}
		first := i
		for i+1 < len(a.seen) && a.seen[i+1] == 0 {
			i++
		}
		fmt.Fprintf(&out, " %d-%d", first, i)
		shown++
	}
	return out.String()
}

// report logs what was measured, and what both sides say of their flow.
func (f *flood) report(w *world, what string) {
	w.t.Logf("%s: %d datagrams of %d bytes in %v (%.0f/s, sender late by %v at most)\n\tthere: %v\n\tback:  %v\n\tfirst gaps there:%s", what, f.sent, floodSize, f.took.Round(time.Millisecond),
		float64(f.sent)/f.took.Seconds(), f.mostBehind.Round(time.Millisecond), &f.there, &f.back, f.there.gaps())
	if f.bare {
		w.t.Logf("past the tunnel: there: %v\n\tback:  %v", &f.bareThere, &f.bareBack)
	}
	for name, c := range map[string]*testkit.Caddy{"client": w.client, "gateway": w.gateway} {
		text, err := c.Get(w.t.Context(), "/webrtc_tunnel/tunnels/"+w.tunnel(c).ID)
		var list struct {
			StreamList []struct{ Flow json.RawMessage } `json:"stream_list"`
		}
		if err == nil {
			err = json.Unmarshal([]byte(text), &list)
		}
		w.t.Logf("flows of the %s: %s, %v", name, list, err)
	}
}
