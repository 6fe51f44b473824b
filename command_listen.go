package culvert

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/socks5"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
	"github.com/culvertgate/culvert/tunnel/reactor"
)

const (
	openTime  = 30 * time.Second // that a local connection waits for its stream, the tunnel included
	drainTime = 10 * time.Second // that streams have to finish after the first Ctrl-C
)

// opener is a Tunnel or a Remote.
type opener interface {
	OpenEndpoint(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) (*tunnel.Stream, error)
}

var (
	_ opener = (*client.Tunnel)(nil)
	_ opener = (*client.Remote)(nil)
)

// localServer hands connections of local listeners to streams, and datagrams of
// local sockets to flows. Its goroutines: one for each listener or socket, one for
// each connection until its stream is open, one for each flow.
type localServer struct {
	opener  opener
	reactor *reactor.Reactor
	console *console
	cancel  context.CancelFunc // ends what waits for a stream
	wg      sync.WaitGroup
	// associating ends with stopListening: a UDP ASSOCIATE has no end of its own to wait for.
	associating  context.Context
	disassociate context.CancelFunc

	listeners []localListener
	datagrams []*datagramForward
	flows     flowRoom // of datagrams
	socks     bool
}

// localListener is a listener and where its connections go.
type localListener struct {
	net.Listener
	target tunnel.Target
}

// newLocalServer opens all listeners, or none. They are served from start on.
func newLocalServer(console *console, forwards []forward, socks bool) (*localServer, error) {
	r, err := reactor.New(reactor.Config{})
	if err != nil {
		return nil, err
	}
	s := &localServer{reactor: r, console: console, socks: socks, flows: make(flowRoom, maxForwarded)}
	s.associating, s.disassociate = context.WithCancel(context.Background())
	for _, f := range forwards {
		if err := s.listen(f); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *localServer) listen(f forward) error {
	if f.datagrams() {
		d, err := listenDatagrams(s.console, f, s.flows)
		if err == nil {
			s.datagrams = append(s.datagrams, d)
		}
		return err
	}
	l, err := f.listen()
	if err == nil {
		s.listeners = append(s.listeners, localListener{l, f.target})
	}
	return err
}

// start serves the listeners with streams of o.
func (s *localServer) start(ctx context.Context, o opener) {
	s.opener = o
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx)) // an interrupt lets opens end
	for _, l := range s.listeners {
		s.announce("", l.Addr(), l.target)
		s.wg.Go(func() { s.accept(ctx, l, l.target) })
	}
	for _, d := range s.datagrams {
		s.announce("udp/", d.socket.LocalAddr(), d.target)
		d.serve(o)
	}
}

// announce says where it listens, and who can use that.
func (s *localServer) announce(network string, a net.Addr, target tunnel.Target) {
	to := "SOCKS5"
	if !s.socks {
		to = cmp.Or(target.String(), "the ticket's target")
	}
	s.console.say("listening on %s%s for %s", network, a, to)
	if beyondLoopback(a) {
		s.console.say("warning: %s%s can be reached from other machines: whoever reaches it uses the gateway as you", network, a)
	}
}

func (s *localServer) accept(ctx context.Context, l net.Listener, target tunnel.Target) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, for one: others end and give some back
			s.console.say("accepting on %s: %v", l.Addr(), err)
			if !pause(ctx, time.Second) {
				return
			}
			continue
		}
		s.wg.Go(func() {
			if s.socks {
				s.serveSOCKS(ctx, conn)
			} else {
				s.serve(ctx, conn, target)
			}
		})
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// serve opens a stream for a connection, which belongs to the reactor by then:
// if that fails it is reset.
func (s *localServer) serve(ctx context.Context, conn net.Conn, target tunnel.Target) {
	from := conn.RemoteAddr().String()
	ep, err := s.reactor.Adopt(conn, nil)
	if err != nil {
		s.console.say("%s: %v", from, err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if _, err := s.opener.OpenEndpoint(ctx, target, ep); err != nil {
		s.failed(from, target, err)
	}
}

func (s *localServer) failed(from string, target tunnel.Target, err error) {
	if tunnel.CodeOf(err) != framecodec.CodeCancelled {
		s.console.say("%s: no stream to %s: %v", from, target, err)
	}
}

// serveSOCKS reads a request (RFC 1928), opens the stream, and replies before
// data flows.
func (s *localServer) serveSOCKS(ctx context.Context, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(socks5.HandshakeTimeout))
	request, err := socks5.Options{AllowAssociate: true}.ReadRequest(conn)
	if err != nil {
		_ = conn.Close()
		return // the client has been told, where it can be
	}
	if request.Command == socks5.Associate {
		s.serveAssociate(conn, request)
		return
	}
	target := tunnel.Target{Kind: tunnel.KindTCP, Host: request.Host, Port: request.Port}
	opening, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	stream, err := s.opener.OpenEndpoint(opening, target, nil)
	reply := socks5.Succeeded
	if err != nil {
		s.failed(conn.RemoteAddr().String(), target, err)
		reply = socks5.Reply(tunnel.CodeOf(err).SOCKSReply())
	}
	_ = conn.SetDeadline(time.Now().Add(replyTimeout))
	_, writeErr := conn.Write(socks5.AppendReply(nil, reply, netip.AddrPort{}))
	switch {
	case err != nil:
		_ = conn.Close()
		return
	case writeErr != nil:
		_ = conn.Close()
		stream.Reset(framecodec.CodeCancelled, "the client is gone")
		return
	}
	_ = conn.SetDeadline(time.Time{})
	ep, err := s.reactor.Adopt(conn, nil)
	if err != nil {
		stream.Reset(framecodec.CodeInternal, "")
		return
	}
	_ = stream.Attach(ep) // on error the stream has ended, and the connection with it
}

// serveAssociate gives the client a UDP socket for as long as its TCP connection
// lives.
func (s *localServer) serveAssociate(conn net.Conn, request socks5.Request) {
	defer conn.Close()
	stop := context.AfterFunc(s.associating, func() { _ = conn.Close() })
	defer stop()
	socket, bound, err := bindAssociation(conn, netip.AddrPort{})
	reply := socks5.Succeeded
	if err != nil {
		s.console.say("%s: no socket for UDP: %v", conn.RemoteAddr(), err)
		reply = socks5.GeneralFailure
	} else {
		defer socket.Close()
	}
	_ = conn.SetDeadline(time.Now().Add(replyTimeout))
	if _, werr := conn.Write(socks5.AppendReply(nil, reply, bound)); err != nil || werr != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	newAssociation(socket,
		func(ctx context.Context, target tunnel.Target, ep tunnel.Endpoint) error {
			ctx, cancel := context.WithTimeout(ctx, openTime)
			defer cancel()
			_, err := s.opener.OpenEndpoint(ctx, target, ep)
			return err
		},
		func(target tunnel.Target, err error) { s.failed(conn.RemoteAddr().String(), target, err) },
		func(f func()) { f() }, // a panic ends the command, as any other of its goroutines'
	).serve(conn, request)
}

// stopListening lets nothing new in; streams that run go on, associations and flows
// end.
func (s *localServer) stopListening() {
	s.disassociate()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	for _, d := range s.datagrams {
		d.stop()
	}
}

// close ends everything; the tunnel has been closed before.
func (s *localServer) close() {
	s.stopListening()
	if s.cancel != nil {
		s.cancel()
	}
	s.wg.Wait()
	_ = s.reactor.Close()
}
