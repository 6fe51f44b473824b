package client_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/culvertgate/culvert/tunnel/client"
)

// A Remote as the transport of an HTTP client: whatever dials can dial through
// a tunnel.
func ExampleRemote_DialContext() {
	remote := client.NewRemote(client.Config{
		URLs: []string{"https://gw.example.com/tunnel"},
		Header: func(context.Context) (http.Header, error) {
			return http.Header{"Authorization": {"Bearer token"}}, nil
		},
	})
	defer remote.Close()
	web := &http.Client{Transport: &http.Transport{DialContext: remote.DialContext}}
	if res, err := web.Get("http://intranet.example/"); err == nil {
		fmt.Println(res.Status)
		_ = res.Body.Close()
	}
}

func ExampleConfig_Validate() {
	fmt.Println(client.Config{URLs: []string{"http://gw.example.com/tunnel"}}.Validate())
	// Output: gateway URL "http://gw.example.com/tunnel": plain http would show your credentials to everyone on the way; use https
}
