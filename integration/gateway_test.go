package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// TestGateway walks through a tunnel's life: offer, stream, admin API, end.
func TestGateway(t *testing.T) {
	echo := echoServer(t)
	start(t, global("", "")+site("target echo tcp/"+echo))
	p := connect(t, siteURL, nil)
	conn, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	if err := pingPong(conn); err != nil {
		t.Fatal(err)
	}
	list := tunnels(t, "gateway")
	if len(list) != 1 {
		t.Fatalf("%d tunnels, want 1", len(list))
	}
	one := list[0]
	if one.Endpoint != "gw" || one.State != "open" || one.Dialect != 2 || one.Streams != 1 || one.ClientIP != "127.0.0.1" || one.BytesIn == 0 {
		t.Errorf("tunnel %+v", one)
	}
	var detail tunnelJSON
	if status := admin(t, http.MethodGet, "/webrtc_tunnel/tunnels/"+one.ID, "", &detail); status != 200 || len(detail.StreamList) != 1 || detail.StreamList[0].Target != "echo" {
		t.Errorf("status %d, detail %+v", status, detail)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		t.Errorf("after the half close: %q, %v; want the end", rest, err)
	}
	eventually(t, func() error {
		if list := tunnels(t, "gateway"); len(list) != 1 || list[0].Streams != 0 {
			return fmt.Errorf("%+v, want one tunnel without streams", list)
		}
		return nil
	})
	p.close()
	eventually(t, func() error {
		if list := tunnels(t, "gateway"); len(list) != 0 {
			return fmt.Errorf("%+v, want no tunnel", list)
		}
		return nil
	})
}

// TestAdminEnds: what an administrator ends, ends with closed_by_admin.
func TestAdminEnds(t *testing.T) {
	echo := echoServer(t)
	start(t, global("", "")+site("target echo tcp/"+echo))
	p := connect(t, siteURL, nil)
	conn, err := p.open("echo")
	if err != nil {
		t.Fatal(err)
	}
	id := tunnels(t, "gateway")[0].ID
	if status := admin(t, http.MethodDelete, "/webrtc_tunnel/tunnels/"+id+"/streams/1", "", nil); status != http.StatusNoContent {
		t.Fatalf("DELETE stream: status %d", status)
	}
	_, err = conn.Read(make([]byte, 1))
	wantCode(t, err, framecodec.CodeClosedByAdmin)
	if status := admin(t, http.MethodDelete, "/webrtc_tunnel/tunnels/"+id+"/streams/1", "", nil); status != http.StatusNotFound {
		t.Errorf("DELETE stream again: status %d, want 404", status)
	}
	if status := admin(t, http.MethodDelete, "/webrtc_tunnel/tunnels/"+id, "", nil); status != http.StatusNoContent {
		t.Fatalf("DELETE tunnel: status %d", status)
	}
	<-p.session.Done()
	wantCode(t, p.session.Err(), framecodec.CodeClosedByAdmin)

	p = connect(t, siteURL, nil)
	var closed struct{ Closed int }
	if status := admin(t, http.MethodDelete, "/webrtc_tunnel/tunnels?endpoint=gw&identity=", "", &closed); status != 200 || closed.Closed != 1 {
		t.Fatalf("DELETE tunnels: status %d, %d closed, want 1", status, closed.Closed)
	}
	<-p.session.Done()
	wantCode(t, p.session.Err(), framecodec.CodeClosedByAdmin)
}

// TestRefusals has a cause of refusal per row and the code that the client gets.
func TestRefusals(t *testing.T) {
	echo := echoServer(t)
	start(t, global("", "")+site(`target echo tcp/`+echo+`
		target alices tcp/`+echo+` {
			users alice
		}
		dynamic {
			allow tcp/127.0.0.0/8:1-65535
			deny 127.0.0.13
		}`))
	p := connect(t, siteURL, nil)
	for target, want := range map[string]framecodec.Code{
		"nosuch":                     framecodec.CodeUnknownTarget,
		"alices":                     framecodec.CodeNotAllowed,
		"tcp/127.0.0.13:80":          framecodec.CodeNotAllowed,
		"tcp/127.0.0.1:2999":         framecodec.CodeNotAllowed, // the admin endpoint
		"tcp/127.0.0.1:9080":         framecodec.CodeNotAllowed, // the endpoint itself
		"tcp/192.0.2.1:80":           framecodec.CodeNotAllowed,
		"tcp/169.254.169.254:80":     framecodec.CodeNotAllowed,
		"tcp/127.1:80":               framecodec.CodeNotAllowed,
		"tcp/[::ffff:127.0.0.13]:80": framecodec.CodeNotAllowed,
		"tcp/127.0.0.1:1":            framecodec.CodeRefused, // allowed, and nobody listens
	} {
		t.Run(target, func(t *testing.T) {
			_, err := p.open(target)
			wantCode(t, err, want)
		})
	}
	if conn, err := p.open("tcp/" + echo); err != nil {
		t.Error(err)
	} else if err := pingPong(conn); err != nil {
		t.Error(err)
	}
	if p.session.Err() != nil {
		t.Errorf("the refusals ended the tunnel: %v", p.session.Err())
	}
}

// TestWhoIsWho: an identity is needed, and the session is its own only.
func TestWhoIsWho(t *testing.T) {
	echo := echoServer(t)
	start(t, global("", "")+`http://`+siteAddr+` {
	webrtc_tunnel /tunnel* {
		identity {http.request.header.X-User}
		target echo tcp/`+echo+` {
			users alice
		}
	}
}
`)
	if _, err := tryConnect(t.Context(), siteURL, nil); err == nil {
		t.Error("nobody was admitted")
	} else {
		wantCode(t, err, framecodec.CodeUnauthenticated)
	}
	alice := connect(t, siteURL, http.Header{"X-User": {"alice"}})
	if conn, err := alice.open("echo"); err != nil {
		t.Error(err)
	} else if err := pingPong(conn); err != nil {
		t.Error(err)
	}
	bob := connect(t, siteURL, http.Header{"X-User": {"bob"}})
	_, err := bob.open("echo")
	wantCode(t, err, framecodec.CodeNotAllowed)
	if list := tunnels(t, "gateway"); len(list) != 2 || list[0].Identity != "alice" || list[0].Endpoint != "127.0.0.1/tunnel" {
		t.Errorf("tunnels %+v", list)
	}
	if err := errors.Join(alice.session.Err(), bob.session.Err()); err != nil {
		t.Error(err)
	}
}
