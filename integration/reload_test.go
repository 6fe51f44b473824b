package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
)

// entries are the layer4 servers of the client's side.
func entries(target string) string {
	return `	layer4 {
		` + entry1 + ` {
			route {
				webrtc_tunnel here ` + target + `
			}
		}
		` + socks1 + ` {
			route {
				webrtc_tunnel here socks5
			}
		}
	}`
}

const remoteHere = "\t\tremote here " + siteURL

// TestReloads: 200 reloads, each really different, under the traffic of 16
// streams: none is lost, and reload 200 holds no more than reload 20.
func TestReloads(t *testing.T) {
	const reloads, streams, early = 200, 16, 20
	echo := echoServer(t)
	generation := func(n int) string {
		return global(remoteHere, entries("echo")+"\n"+on(strconv.Itoa(n))) +
			site(fmt.Sprintf("target echo tcp/%s\ntarget t%d tcp/%s\nlimits {\nstreams_per_tunnel %d\n}", echo, n, echo, 1000+n))
	}
	start(t, generation(0))
	direct := connect(t, siteURL, nil)
	traffic := newTraffic()
	for i := range streams {
		c, err := openEither(direct, i%2 == 0)
		if err == nil {
			err = pingPong(c) // accepted, and not in the queue of a listener that a reload closes
		}
		if err != nil {
			t.Fatal(err)
		}
		traffic.add(c)
	}
	before := provisioned.Load()
	var at usage
	for n := 1; n <= reloads; n++ {
		if err := load(generation(n)); err != nil {
			t.Fatalf("reload %d: %v", n, err)
		}
		if n == early {
			at = traffic.paused(t, measure)
		}
	}
	if got := (provisioned.Load() - before) / int64(len(recordedNames)); got != reloads {
		t.Errorf("%d configurations were provisioned, want %d", got, reloads)
	}
	end := traffic.paused(t, func(t *testing.T) usage { return measureUntil(t, at) })
	t.Logf("at reload %d: %v; at %d: %v; %d MiB moved", early, at, reloads, end, traffic.moved.Load()>>20)
	traffic.stop(t)
	if list := tunnels(t, "gateway"); len(list) != 2 {
		t.Errorf("%d tunnels at the gateway, want the 2 from before", len(list))
	}
	// The newest configuration counts.
	c, err := direct.open(fmt.Sprintf("t%d", reloads))
	if err != nil {
		t.Fatal(err)
	}
	if err := pingPong(c); err != nil {
		t.Error(err)
	}
	_, err = direct.open("t1")
	wantCode(t, err, framecodec.CodeUnknownTarget)
}

// openEither opens a stream to the target echo by a peer of the test, or by the
// entry and the remote.
func openEither(p *peer, byPeer bool) (net.Conn, error) {
	if byPeer {
		return p.open("echo")
	}
	return net.Dial("tcp", entry1)
}

// traffic keeps connections to an echo busy with random data that has to come
// back.
type traffic struct {
	gate  sync.RWMutex // held for reading during a round: paused takes it
	done  chan struct{}
	wg    sync.WaitGroup
	moved atomic.Int64
	mu    sync.Mutex
	errs  []error // guarded by mu
}

func newTraffic() *traffic { return &traffic{done: make(chan struct{})} }

func (f *traffic) add(c net.Conn) {
	f.wg.Go(func() {
		defer c.Close()
		rng := rand.NewChaCha8([32]byte{1})
		sent, got := make([]byte, 32<<10), make([]byte, 32<<10)
		for {
			select {
			case <-f.done:
				return
			default:
			}
			_, _ = rng.Read(sent) // never fails
			if err := f.round(c, sent, got); err != nil {
				f.mu.Lock()
				f.errs = append(f.errs, err)
				f.mu.Unlock()
				return
			}
		}
	})
}

func (f *traffic) round(c net.Conn, sent, got []byte) error {
	f.gate.RLock()
	defer f.gate.RUnlock()
	if err := c.SetDeadline(time.Now().Add(long)); err != nil {
		return err
	}
	if _, err := c.Write(sent); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("what came back is not what was sent")
	}
	f.moved.Add(int64(len(sent)))
	return nil
}

// paused calls f while nothing moves.
func (f *traffic) paused(t *testing.T, measure func(*testing.T) usage) usage {
	t.Helper()
	f.gate.Lock()
	defer f.gate.Unlock()
	return measure(t)
}

// stop ends the traffic; none of the streams may have failed.
func (f *traffic) stop(t *testing.T) {
	t.Helper()
	close(f.done)
	f.wg.Wait()
	for _, err := range f.errs {
		t.Errorf("a stream under traffic failed: %v", err)
	}
}

// usage is what a process holds.
type usage struct {
	goroutines, descriptors int
	heap                    uint64
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MiB heap", u.goroutines, u.descriptors, float64(u.heap)/(1<<20))
}

func measure(t *testing.T) usage {
	t.Helper()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return usage{runtime.NumGoroutine(), len(fds), m.HeapAlloc}
}

// heapSlack is what pools and tables may have grown by since the first reloads;
// 180 configurations would be more.
const heapSlack = 2 << 20

// measureUntil measures until the usage is that of before, as far as things that
// come and go by themselves allow: what the last reload replaced takes a moment
// to end.
func measureUntil(t *testing.T, before usage) usage {
	t.Helper()
	var now usage
	eventually(t, func() error {
		now = measure(t)
		if now.goroutines > before.goroutines+2 || now.descriptors > before.descriptors || now.heap > before.heap+heapSlack {
			return fmt.Errorf("%v, before %v", now, before)
		}
		return nil
	})
	return now
}

// TestReloadRemovesTarget: the streams of a target that is gone end with
// policy_changed, the others go on.
func TestReloadRemovesTarget(t *testing.T) {
	echo := echoServer(t)
	other := echoServer(t)
	both := "target echo tcp/" + echo + "\ntarget other tcp/" + other + "\ndynamic {\nallow tcp/" + other + "\n}"
	start(t, global("", "")+site(both))
	p := connect(t, siteURL, nil)
	var conns []net.Conn
	for _, target := range []string{"echo", "other", "tcp/" + other} {
		c, err := p.open(target)
		if err == nil {
			err = pingPong(c)
		}
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		conns = append(conns, c)
	}
	if err := load(global("", "") + site("target echo tcp/"+echo)); err != nil {
		t.Fatal(err)
	}
	for _, gone := range conns[1:] {
		_, err := gone.Read(make([]byte, 1))
		wantCode(t, err, framecodec.CodePolicyChanged)
	}
	if err := pingPong(conns[0]); err != nil {
		t.Errorf("the stream of a target that stays: %v", err)
	}
	if _, err := p.open("other"); err == nil {
		t.Error("a target that is gone was opened")
	}
}

// TestFailedLoads: a configuration that does not start changes nothing, at
// whatever moment it fails.
func TestFailedLoads(t *testing.T) {
	echo := echoServer(t)
	good := global(remoteHere, entries("echo")) + site("target echo tcp/"+echo)
	start(t, good)
	p := connect(t, siteURL, nil)
	c, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	byEntry, err := net.Dial("tcp", entry1)
	if err != nil {
		t.Fatal(err)
	}
	defer byEntry.Close()
	// Until something has come back it may be in the kernel's queue yet, where a
	// configuration that fails takes its share.
	if err := pingPong(byEntry); err != nil {
		t.Fatal(err)
	}
	taken := serve(t, func(net.Conn) {})
	without := global(remoteHere, entries("echo")) + site("target another tcp/"+echo)
	for name, bad := range map[string]string{
		"syntax":            good + "}",
		"unknown option":    global(remoteHere+"\n\t\tnosuch", "") + site(""),
		"provision":         without + site2("webrtc_tunnel {\nname gw2\ndefault_target nosuch\n}"),
		"provision of http": without + site2("reverse_proxy {\nlb_policy nosuch\n}"),
		"start of http":     without + "http://" + taken + " {\nbind 127.0.0.1\nrespond 200\n}\n",
		// One server only: caddy-l4 v0.1.2 leaves those open that it had started
		// when another one fails, and takes them in the order of a map.
		"start of layer4": global(remoteHere, "\tlayer4 {\n\t\t"+taken+" {\n\t\t\troute {\n\t\t\t\twebrtc_tunnel here echo\n\t\t\t}\n\t\t}\n\t}") + site("target another tcp/"+echo),
		"start of ours":   strings.Replace(without, "udp/"+udpAddr, "udp/192.0.2.1:9", 1),
	} {
		t.Run(name, func(t *testing.T) {
			// Caddy starts its apps in random order: each failure is tried in several.
			for range 5 {
				if err := load(bad); err == nil {
					t.Fatal("the configuration was loaded")
				}
			}
			for _, conn := range []net.Conn{c, byEntry} {
				if err := pingPong(conn); err != nil {
					t.Errorf("a stream from before: %v", err)
				}
			}
			next, err := p.open("echo")
			if err != nil {
				t.Fatalf("a new stream: %v", err)
			}
			defer next.Close()
			if err := pingPong(next); err != nil {
				t.Error(err)
			}
			_, err = p.open("another")
			wantCode(t, err, framecodec.CodeUnknownTarget)
			if list := tunnels(t, "gateway"); len(list) != 2 {
				t.Errorf("%d tunnels, want 2: %+v", len(list), list)
			}
			if status := admin(t, http.MethodGet, "/webrtc_tunnel/health", "", nil); status != http.StatusOK {
				t.Errorf("health %d, want 200", status)
			}
		})
	}
}

func site2(directive string) string { return "http://127.0.0.1:9082 {\n" + directive + "\n}\n" }

// TestReloadRemovesEndpoint: its tunnels end.
func TestReloadRemovesEndpoint(t *testing.T) {
	echo := echoServer(t)
	start(t, global("", "")+site("target echo tcp/"+echo))
	for name, next := range map[string]string{
		"no endpoint":  global(remoteHere, entries("echo")),
		"another name": global("", "") + strings.Replace(site("target echo tcp/"+echo), "name gw", "name gw2", 1),
		"anonymous":    global("", "") + strings.Replace(site("target echo tcp/"+echo), "allow_anonymous", "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if err := load(global("", "") + site("target echo tcp/"+echo)); err != nil {
				t.Fatal(err)
			}
			p := connect(t, siteURL, nil)
			if err := load(next); err != nil {
				t.Fatal(err)
			}
			<-p.session.Done()
			wantCode(t, p.session.Err(), framecodec.CodePolicyChanged)
		})
	}
	t.Run("the app", func(t *testing.T) {
		if err := load(global("", "") + site("target echo tcp/"+echo)); err != nil {
			t.Fatal(err)
		}
		p := connect(t, siteURL, nil)
		if err := load(bare); err != nil {
			t.Fatal(err)
		}
		<-p.session.Done()
		wantCode(t, p.session.Err(), framecodec.CodeTunnelClosed)
		// The socket is free again.
		l, err := net.ListenPacket("udp", udpAddr)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}

// TestReloadMovesListen: a new address ends the tunnels, and new ones are had
// there.
func TestReloadMovesListen(t *testing.T) {
	echo := echoServer(t)
	config := global("", "") + site("target echo tcp/"+echo)
	start(t, config)
	p := connect(t, siteURL, nil)
	if err := load(strings.Replace(config, udpAddr, "127.0.0.1:9479", 1)); err != nil {
		t.Fatal(err)
	}
	<-p.session.Done()
	wantCode(t, p.session.Err(), framecodec.CodeTunnelClosed)
	p = connect(t, siteURL, nil)
	c, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := pingPong(c); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		if pair := tunnels(t, "gateway")[0].CandidatePair; !strings.Contains(pair, "9479") {
			return fmt.Errorf("candidate pair %q, want one of the new address", pair)
		}
		return nil
	})
}

// TestReloadKeepsRemote: a remote whose configuration is the same keeps its
// tunnel; one that changed gets another, and the streams of the old one finish.
func TestReloadKeepsRemote(t *testing.T) {
	echo := echoServer(t)
	config := global(remoteHere, entries("echo")) + site("target echo tcp/"+echo)
	start(t, config)
	c, err := net.Dial("tcp", entry1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := pingPong(c); err != nil {
		t.Fatal(err)
	}
	first := tunnels(t, "client")[0].ID
	if err := load(strings.Replace(config, "target echo", "target more tcp/"+echo+"\ntarget echo", 1)); err != nil {
		t.Fatal(err)
	}
	if list := tunnels(t, "client"); len(list) != 1 || list[0].ID != first {
		t.Errorf("an unchanged remote has the tunnels %+v, want %s", list, first)
	}
	if err := load(strings.Replace(config, remoteHere, remoteHere+" {\nheader X-Site two\n}", 1)); err != nil {
		t.Fatal(err)
	}
	if err := pingPong(c); err != nil {
		t.Errorf("the stream of the old remote: %v", err)
	}
	second, err := net.Dial("tcp", entry1)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := pingPong(second); err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, func() error {
		if list := tunnels(t, "client"); len(list) != 1 || list[0].ID == first {
			return fmt.Errorf("tunnels %+v, want one other than %s", list, first)
		}
		return nil
	})
}

// TestReloadDrainsEachByItself: streams have the whole time of the reload that refuses
// them, whatever reloads came before.
func TestReloadDrainsEachByItself(t *testing.T) {
	echo := echoServer(t)
	config := func(target string) string {
		return global("\t\ttimeouts {\n\t\t\tdrain 4s\n\t\t}", "") + users("on_reload drain\ntarget echo tcp/"+echo+target)
	}
	start(t, config(""))
	c, err := connect(t, siteURL, user("alice")).open("echo")
	if err != nil {
		t.Fatal(err)
	}
	other, err := connect(t, siteURL, user("carol")).open("echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := load(config("\ntarget more tcp/127.0.0.1:9")); err != nil { // nobody's affair
		t.Fatal(err)
	}
	first := time.NewTimer(3 * time.Second) // of the four that its drain has
	<-first.C
	if err := load(config(" {\nusers bob carol\n}")); err != nil {
		t.Fatal(err)
	}
	refused := time.Now()
	_ = c.SetReadDeadline(time.Now().Add(long))
	_, err = c.Read(make([]byte, 1))
	wantCode(t, err, framecodec.CodePolicyChanged)
	if took := time.Since(refused); took < 3*time.Second {
		t.Errorf("cut %v behind the reload that refuses it, of 4 s", took)
	}
	if err := pingPong(other); err != nil {
		t.Errorf("carol's, which is not refused: %v", err)
	}
}
