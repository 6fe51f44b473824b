package culvert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel/client"
	"github.com/culvertgate/culvert/tunnel/signal"
)

// targetsTime is how long the list may take.
const targetsTime = 20 * time.Second

// fetchTargets asks the gateways in order for their list. It needs no tunnel.
func fetchTargets(ctx context.Context, cfg client.Config) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, targetsTime)
	defer cancel()
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	var all []error
	for _, url := range cfg.URLs {
		c, err := signal.NewClient(signal.ClientConfig{URL: url, Header: cfg.Header, HTTP: &http.Client{Transport: transport}})
		if err != nil {
			return nil, err
		}
		list, err := c.Targets(ctx)
		if err == nil {
			return list, nil
		}
		all = append(all, fmt.Errorf("%s: %w", c.URL(), err))
	}
	return nil, errors.Join(all...)
}

// targetsAnswer is what a gateway says of its targets; a list alone would do.
type targetsAnswer struct {
	Targets []listedTarget `json:"targets"`
	Dynamic bool           `json:"dynamic"`
}

type listedTarget struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Title   string `json:"title"`
	App     string `json:"app"`
	Default bool   `json:"default"`
	Usable  bool   `json:"usable"`
}

func parseTargets(list []byte) (targetsAnswer, error) {
	var answer targetsAnswer
	if err := json.Unmarshal(list, &answer); err != nil {
		return answer, errors.New("the gateway's list of targets cannot be read: is it a gateway of this kind?")
	}
	return answer, nil
}

// printTargets writes the list for people. Its words are the gateway's: nothing
// of them may steer the terminal.
func printTargets(out io.Writer, list []byte) error {
	answer, err := parseTargets(list)
	if err != nil {
		return err
	}
	safe := func(s string) string { return framecodec.SafeText([]byte(s)) }
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tKIND\tUSABLE\tTITLE")
	for _, t := range answer.Targets {
		usable := "yes"
		if !t.Usable {
			usable = "no"
		}
		title := safe(t.Title)
		if t.Default {
			title += " (default)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", safe(t.Name), safe(t.Kind), usable, title)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if answer.Dynamic {
		fmt.Fprintln(out, "Addresses such as tcp/host:port may be named too, as far as the gateway's rules allow.")
	}
	return nil
}
