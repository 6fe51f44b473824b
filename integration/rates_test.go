package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
)

// loadServer gives ?n= bytes to who asks for them, and takes what is put.
func loadServer(t *testing.T) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		n, _ := strconv.Atoi(r.FormValue("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = w.Write(make([]byte, n))
	}))
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// over is an HTTP client whose connections come from dial.
func over(t *testing.T, dial func() net.Conn) *http.Client {
	t.Helper()
	transport := &http.Transport{Dial: func(string, string) (net.Conn, error) { return dial(), nil }} //nolint:staticcheck // the context says nothing here
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 60 * time.Second}
}

func download(t *testing.T, c *http.Client, n int) time.Duration {
	t.Helper()
	from := time.Now()
	res, err := c.Get("http://load.example/?n=" + strconv.Itoa(n))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.Copy(io.Discard, res.Body); err != nil || got != int64(n) {
		t.Fatalf("%d of %d bytes, %v", got, n, err)
	}
	return time.Since(from)
}

func upload(t *testing.T, c *http.Client, n int) time.Duration {
	t.Helper()
	from := time.Now()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://load.example/", bytes.NewReader(make([]byte, n)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return time.Since(from)
}

// TestRates: what the limits of an endpoint let pass, by a named target and by
// SOCKS5, of a tunnel and of a stream; a reload changes them for streams that run.
func TestRates(t *testing.T) {
	const size = 4 << 20
	load1 := loadServer(t)
	dialTarget := func() net.Conn {
		c, err := net.Dial("tcp", entry1)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	dialSocks := func() net.Conn {
		c, reply := socksRequest(t, load1.Addr().String(), load1.Port())
		if reply != socks5.Succeeded {
			t.Fatalf("reply %v", reply)
		}
		_ = c.SetDeadline(time.Time{})
		return c
	}
	config := func(limits string) string {
		return global(remoteHere, "\tlayer4 {\n\t\t"+entry1+" {\n\t\t\troute {\n\t\t\t\twebrtc_tunnel here load\n\t\t\t}\n\t\t}\n\t\t"+socks1+
			" {\n\t\t\troute {\n\t\t\t\twebrtc_tunnel here socks5\n\t\t\t}\n\t\t}\n\t}") +
			site("target load tcp/"+load1.String()+"\ndynamic {\nallow tcp/127.0.0.0/8:1-65535\n}\nlimits {\n"+limits+"\n}")
	}
	for name, limits := range map[string]string{"tunnel": "rate 1MiB", "stream": "stream_rate 1MiB"} {
		for entry, dial := range map[string]func() net.Conn{"target": dialTarget, "socks": dialSocks} {
			t.Run(name+"/"+entry, func(t *testing.T) {
				start(t, config(limits))
				c := over(t, dial)
				// A second's worth passes at once, up also the first window of 1 MiB.
				for what, took := range map[string]time.Duration{"down": download(t, c, size), "up": upload(t, c, size)} {
					t.Logf("%d MiB %s: %v", size>>20, what, took)
					if took < 1900*time.Millisecond || took > 6*time.Second {
						t.Errorf("%d MiB %s took %v at 1 MiB a second", size>>20, what, took)
					}
				}
				down := make(chan time.Duration)
				go func() { down <- download(t, over(t, dial), 64<<20) }()
				eventually(t, func() error {
					var one struct {
						Streams []struct {
							Out tunnel.Waiting
						} `json:"stream_list"`
					}
					admin(t, http.MethodGet, "/webrtc_tunnel/tunnels/"+tunnels(t, "gateway")[0].ID, "", &one)
					for _, st := range one.Streams {
						if st.Out.For == tunnel.WaitsRate {
							return nil
						}
					}
					return fmt.Errorf("nothing waits for the rate: %+v", one)
				})
				if err := load(config("streams_per_tunnel 100")); err != nil {
					t.Fatal(err)
				}
				if took := <-down; took > 30*time.Second {
					t.Errorf("64 MiB took %v, most of them without a limit", took)
				}
			})
		}
	}
}

// TestRateOfRawChannels: a page's raw channel has the rate of a stream.
func TestRateOfRawChannels(t *testing.T) {
	start(t, global("", "")+site("target echo tcp/"+echoServer(t)+"\nlimits {\nrate 2MiB\nstream_rate 256KiB\n}"))
	_, channels, err := tryChannels(t, nil, "", rawSpec("echo"))
	if err != nil {
		t.Fatal(err)
	}
	page := channels[0]
	from := time.Now()
	const size = 1 << 20
	for range size / (16 << 10) {
		if err := page.WriteMessage(make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 1<<16)
	for got := 0; got < size; {
		if err := page.Wait(); err != nil {
			t.Fatal(err)
		}
		n, err := page.ReadMessage(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if took := time.Since(from); took < 2500*time.Millisecond || took > 8*time.Second {
		t.Errorf("an echo of 1 MiB took %v at 256 KiB a second", took)
	}
	_ = page.Close(framecodec.CodeNormal)
}

// TestRateOfFlows: datagrams that come too fast are dropped and counted; the rest
// is answered at once.
func TestRateOfFlows(t *testing.T) {
	const size, rate = 1000, 64 << 10
	start(t, udpConfig("echo", "target echo udp/"+echoUDP(t)+"\nlimits {\nrate 64KiB\n}"))
	c := dialUDP(t)
	if err := askUDP(c, []byte("x")); err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	answered := make(chan int)
	go func() {
		n := 0
		for buf := make([]byte, size); ; n++ {
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			if _, err := c.Read(buf); err != nil {
				answered <- n
				return
			}
		}
	}()
	tick := time.NewTicker(2 * time.Millisecond) // eight times the rate
	defer tick.Stop()
	for time.Since(from) < 4*time.Second {
		<-tick.C
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	seconds := time.Since(from).Seconds()
	// The burst is a second's worth of 64 KiB too.
	if n := <-answered; float64(n*size) > rate*(seconds+1)*1.1 || float64(n*size) < rate*seconds*0.6 {
		t.Errorf("%d datagrams of 1000 bytes came back in %.1f s at 64 KiB a second", n, seconds)
	}
	var one struct {
		Streams []struct{ Flow *tunnel.FlowInfo } `json:"stream_list"`
	}
	admin(t, http.MethodGet, "/webrtc_tunnel/tunnels/"+tunnels(t, "gateway")[0].ID, "", &one)
	if len(one.Streams) != 1 || one.Streams[0].Flow == nil || one.Streams[0].Flow.Dropped < 500 {
		t.Errorf("%+v, want what was dropped", one)
	}
}
