package twonets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertgate/culvert/internal/testkit"
	"github.com/culvertgate/culvert/socks5"
)

// A client that waits longer than this hangs.
const clientPatience = 40 * time.Second

// serveWeb is a web server that says whom it was asked for and by which family.
func (w *world) serveWeb() {
	w.t.Helper()
	w.serveTCP(webPort, func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(patience))
		var request strings.Builder
		for buf := make([]byte, 4096); !strings.Contains(request.String(), "\r\n\r\n"); {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			request.Write(buf[:n])
		}
		at, _ := netip.ParseAddrPort(c.LocalAddr().String())
		family := "IPv4"
		if at.Addr().Is6() {
			family = "IPv6"
		}
		body := "hello by " + family + "\n"
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
}

// outcome is what a client printed and how it ended.
type outcome struct {
	out  string
	code int
}

// run runs a program where the world's client is.
func (w *world) run(stdin string, env []string, name string, args ...string) outcome {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), clientPatience)
	defer cancel()
	cmd := w.near.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if stdin == "" {
		cmd.Stdin = nil
	} else {
		cmd.Stdin = strings.NewReader(stdin)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	// A child that the program leaves behind must not hold us.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !stop() {
		return outcome{out.String() + "\n(hung: killed after " + clientPatience.String() + ")", -1}
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited && !errors.Is(err, exec.ErrWaitDelay) {
		w.t.Fatalf("%s: %v\n%s", name, err, out.String())
	}
	return outcome{out.String(), cmd.ProcessState.ExitCode()}
}

// socksClient is a program that fetches a page by SOCKS5.
type socksClient struct {
	name string
	need func(*testing.T)
	// fetch asks the entry for a page; user is empty where none is given.
	fetch func(w *world, entry int, user, password, host string) outcome
	users bool // it can say a user's name
	ipv6  bool // it can name a literal of IPv6
	// wrong is what it prints for a wrong password, noMethod where it has no user
	// and the entry wants one, refused where the policy forbids.
	wrong, noMethod, refused string
}

func needs(names ...string) func(*testing.T) {
	return func(t *testing.T) { t.Helper(); testkit.NeedCommands(t, names...) }
}

var socksClients = []socksClient{
	{
		name: "curl", need: needs("curl"), users: true, ipv6: true,
		fetch: func(w *world, entry int, user, password, host string) outcome {
			args := []string{"-sS", "--noproxy", "", "--max-time", "30", "--socks5-hostname", address(entry)}
			if user != "" {
				args = append(args, "--proxy-user", user+":"+password)
			}
			return w.run("", nil, "curl", append(args, "http://"+bracketed(host)+"/")...)
		},
		wrong: "rejected by the SOCKS5 server", noMethod: "No authentication method was acceptable", refused: "(2)",
	},
	{
		name: "nc", need: needs("nc.openbsd"), ipv6: true,
		fetch: func(w *world, entry int, _, _, host string) outcome {
			return w.run("GET / HTTP/1.0\r\n\r\n", nil, "nc.openbsd", "-X", "5", "-x", address(entry), host, strconv.Itoa(webPort))
		},
		noMethod: "authentication method negotiation failed", refused: "Connection not allowed by ruleset",
	},
	{
		name: "proxychains4", need: needs("proxychains4", "curl"), users: true, ipv6: true,
		fetch: func(w *world, entry int, user, password, host string) outcome {
			conf := filepath.Join(w.t.TempDir(), "proxychains.conf")
			text := fmt.Sprintf("strict_chain\nproxy_dns\nremote_dns_subnet 224\ntcp_read_time_out 20000\ntcp_connect_time_out 20000\n[ProxyList]\nsocks5 127.0.0.1 %d %s %s\n", entry, user, password)
			if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
				w.t.Fatal(err)
			}
			return w.run("", nil, "proxychains4", "-f", conf, "curl", "-sS", "--noproxy", "*", "--max-time", "30", "http://"+bracketed(host)+"/")
		},
		wrong: "denied", noMethod: "denied", refused: "<--socket error or timeout!",
	},
	{
		name: "npm socks", need: func(t *testing.T) { t.Helper(); testkit.NeedNPMSocks(t) }, users: true, ipv6: true,
		fetch: func(w *world, entry int, user, password, host string) outcome {
			return w.node("connect", entry, host, webPort, user, password)
		},
		wrong: "error: Socks5 Authentication failed", noMethod: "error: ", refused: "error: Socks5 proxy rejected connection - NotAllowed",
	},
	{
		name: "PySocks", need: func(t *testing.T) { t.Helper(); testkit.NeedPySocks(t) }, users: true, ipv6: true,
		fetch: func(w *world, entry int, user, password, host string) outcome {
			return w.python("connect", entry, host, webPort, user, password)
		},
		wrong: "SOCKS5 authentication failed", noMethod: "All offered SOCKS5 authentication methods were rejected", refused: "0x02",
	},
	{
		name: "Chromium", need: needs("chromium"), ipv6: true,
		fetch: func(w *world, entry int, _, _, host string) outcome {
			home := w.t.TempDir()
			return w.run("", []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home}, "chromium",
				"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
				"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+filepath.Join(home, "profile"),
				"--proxy-server=socks5://"+address(entry), "--proxy-bypass-list=<-loopback>", "--timeout=20000",
				"--dump-dom", "http://"+bracketed(host)+"/")
		},
		noMethod: "ERR_SOCKS_CONNECTION_FAILED", refused: "ERR_SOCKS_CONNECTION_FAILED",
	},
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// bracketed writes a host as in a URL.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// node runs testdata/npmsocks.js.
func (w *world) node(command string, entry int, host string, port int, user, password string) outcome {
	w.t.Helper()
	args := []string{"testdata/npmsocks.js", command, strconv.Itoa(entry), host, strconv.Itoa(port)}
	if user != "" {
		args = append(args, user, password)
	}
	return w.run("", []string{"NODE_PATH=" + testkit.NeedNPMSocks(w.t)}, "node", args...)
}

// python runs testdata/pysocks.py.
func (w *world) python(command string, entry int, host string, port int, user, password string) outcome {
	w.t.Helper()
	args := []string{"testdata/pysocks.py", command, strconv.Itoa(entry), host, strconv.Itoa(port)}
	if user != "" {
		args = append(args, user, password)
	}
	return w.run("", nil, testkit.NeedPySocks(w.t), args...)
}

// TestSOCKSClients: the programs that people use, each to a name, to addresses
// of both families, as a user, with a wrong password, and to what the policy
// forbids: each says so and none hangs.
func TestSOCKSClients(t *testing.T) {
	w := newWorld(t, options{})
	w.serveWeb()
	for _, c := range socksClients {
		t.Run(c.name, func(t *testing.T) {
			c.need(t)
			fetch := func(name string, entry int, user, password, host, want string, fine bool) {
				t.Run(name, func(t *testing.T) {
					w := *w
					w.t = t
					got := c.fetch(&w, entry, user, password, host)
					// The exit code is no matter for a browser's error page.
					if !strings.Contains(got.out, want) || fine != strings.Contains(got.out, "hello by ") || got.code < 0 || fine && got.code != 0 {
						t.Errorf("exit code %d, want %q in:\n%s", got.code, want, got.out)
					}
				})
			}
			fetch("name", socksEntry, "", "", "web.lan.example", "hello by IPv", true)
			fetch("IPv4", socksEntry, "", "", w.host.String(), "hello by IPv4", true)
			if c.ipv6 {
				fetch("IPv6", socksEntry, "", "", w.host6.String(), "hello by IPv6", true)
			}
			fetch("not allowed", socksEntry, "", "", "192.0.2.1", c.refused, false)
			fetch("without a user", usersEntry, "", "", "web.lan.example", c.noMethod, false)
			if c.users {
				fetch("user", usersEntry, "alice", alicePassword, "web.lan.example", "hello by IPv", true)
				fetch("wrong password", usersEntry, "alice", "wrong", "web.lan.example", c.wrong, false)
				fetch("unknown user", usersEntry, "bob", alicePassword, "web.lan.example", c.wrong, false)
			}
		})
	}
	for _, password := range []string{alicePassword, "wrong"} {
		if log := w.client.Log(); strings.Contains(log, `"`+password+`"`) {
			t.Errorf("the client's log holds the password %q", password)
		}
	}
}

// TestSSHThroughNetcat: ssh reaches an sshd by nc as its ProxyCommand, and a file
// arrives byte for byte.
func TestSSHThroughNetcat(t *testing.T) {
	testkit.NeedCommands(t, "nc.openbsd")
	w := newWorld(t, options{})
	sshd := testkit.StartSSHD(t, w.lan)
	w.serveTCP(sshPort, func(c *net.TCPConn) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		server, err := w.lan.DialContext(ctx, "tcp", sshd.Addr)
		if err != nil {
			return
		}
		defer server.Close()
		join(c, server.(*net.TCPConn))
	})
	for _, host := range []string{"ssh.lan.example", w.host.String(), w.host6.String()} {
		args := append(sshd.ClientOptions(), "-o", fmt.Sprintf("ProxyCommand=nc.openbsd -X 5 -x %s %s %d", address(socksEntry), host, sshPort))
		if got := w.run("", nil, "ssh", append(args, sshd.User+"@culvert", "echo through $((6*7))")...); got.code != 0 || !strings.Contains(got.out, "through 42\n") {
			t.Errorf("%s: exit code %d:\n%s", host, got.code, got.out)
		}
		text := fmt.Sprintf("%x", testkit.PayloadBytes(1, 500_000))
		if got := w.run(text, nil, "ssh", append(args, sshd.User+"@culvert", "cat")...); got.code != 0 || got.out != text {
			t.Errorf("%s: exit code %d, %d of %d bytes came back", host, got.code, len(got.out), len(text))
		}
	}
}

// join copies both ways until both have ended.
func join(a, b *net.TCPConn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(b, a)
		_ = b.CloseWrite()
	})
	_, _ = io.Copy(a, b)
	_ = a.CloseWrite()
	wg.Wait()
}

// TestDatagramsOfSOCKSClients: UDP ASSOCIATE by the clients that have it, with
// and without a user.
func TestDatagramsOfSOCKSClients(t *testing.T) {
	w := newWorld(t, options{})
	w.echoUDP()
	for name, send := range map[string]func(w *world, entry int, host, user, password string) outcome{
		"npm socks": func(w *world, entry int, host, user, password string) outcome {
			return w.node("associate", entry, host, echoPort, user, password)
		},
		"PySocks": func(w *world, entry int, host, user, password string) outcome {
			return w.python("associate", entry, host, echoPort, user, password)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.t = t
			for _, host := range []string{w.host.String(), "echo.lan.example", w.host6.String()} {
				for _, user := range []string{"", "alice"} {
					entry, password := socksEntry, ""
					if user != "" {
						entry, password = usersEntry, alicePassword
					}
					got := send(&w, entry, host, user, password)
					if want := fmt.Sprintf("datagram of %s from %s %d\n", strings.TrimSuffix(name, " socks"), host, echoPort); got.code != 0 || got.out != want {
						t.Errorf("%s as %q: exit code %d, %q, want %q", host, user, got.code, got.out, want)
					}
				}
			}
			if got := send(&w, usersEntry, w.host.String(), "alice", "wrong"); got.code != 1 || !strings.Contains(got.out, "error: ") {
				t.Errorf("wrong password: exit code %d, %q", got.code, got.out)
			}
		})
	}
}

// associate is a UDP socket whose datagrams go to one destination by UDP
// ASSOCIATE.
type associate struct {
	control net.Conn
	socket  net.Conn // to the SOCKS server's UDP socket
	header  []byte
}

// newAssociate asks the entry for an association.
func (w *world) newAssociate(entry int, to netip.AddrPort) *associate {
	w.t.Helper()
	a := &associate{control: w.dial("tcp", entry)}
	if err := a.control.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	var reply [12]byte
	if _, err := a.control.Write([]byte("\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(a.control, reply[:]); err != nil || reply[3] != byte(socks5.Succeeded) || reply[5] != 1 {
		w.t.Fatalf("associate: % x, %v", reply, err)
	}
	a.socket = w.dial("udp", int(reply[10])<<8|int(reply[11]))
	ip := to.Addr().As4()
	a.header = socks5.AppendDatagramHeader(nil, append(append([]byte{1}, ip[:]...), byte(to.Port()>>8), byte(to.Port())))
	return a
}

// serve is a UDP port, where the client is, that leads to the destination. It
// ends with the test.
func (a *associate) serve(w *world, port int) {
	w.t.Helper()
	local, err := w.near.ListenPacket("udp", address(port))
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	asked := make(chan net.Addr, 1)
	wg.Go(func() { // the questions
		for buf := make([]byte, 4096); ; {
			n, from, err := local.ReadFrom(buf)
			if err != nil {
				close(asked)
				return
			}
			asked <- from
			_, _ = a.socket.Write(append(append([]byte{}, a.header...), buf[:n]...))
		}
	})
	wg.Go(func() { // one answer each
		buf := make([]byte, 4096)
		for from := range asked {
			_ = a.socket.SetReadDeadline(time.Now().Add(patience))
			n, err := a.socket.Read(buf)
			if err != nil {
				continue
			}
			if d, err := socks5.ParseDatagram(buf[:n]); err == nil {
				_, _ = local.WriteTo(d.Data, from)
			}
		}
	})
	w.t.Cleanup(func() {
		_ = local.Close()
		_ = a.socket.Close()
		wg.Wait()
	})
}

// TestDig: dig asks a name server behind the gateway, by an association and by an
// entry.
func TestDig(t *testing.T) {
	testkit.NeedCommands(t, "dig")
	w := newWorld(t, options{})
	const throughAssociate = 5353
	w.newAssociate(socksEntry, netip.AddrPortFrom(w.host, dnsPort)).serve(w, throughAssociate)
	for name, port := range map[string]int{"association": throughAssociate, "entry": dnsPort} {
		for kind, want := range map[string]string{"A": w.host.String(), "AAAA": w.host6.String()} {
			got := w.run("", nil, "dig", "@127.0.0.1", "-p", strconv.Itoa(port), "+short", "+tries=3", "+time=5", "host.lan.example", kind)
			if got.code != 0 || strings.TrimSpace(got.out) != want {
				t.Errorf("%s, %s: exit code %d, %q, want %q", name, kind, got.code, got.out, want)
			}
		}
		if got := w.run("", nil, "dig", "@127.0.0.1", "-p", strconv.Itoa(port), "+tries=3", "+time=5", "nowhere.example"); got.code != 0 || !strings.Contains(got.out, "status: NXDOMAIN") {
			t.Errorf("%s: exit code %d for a name that there is not:\n%s", name, got.code, got.out)
		}
	}
}
