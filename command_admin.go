package culvert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/culvertgate/culvert/framecodec"
)

// maxAdminAnswer bounds what is read of the admin API, in bytes.
const maxAdminAnswer = 64 << 20

// adminFlags say where the admin API is, as those of other Caddy commands do.
type adminFlags struct{ address, config, adapter string }

func (f *adminFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.address, "address", "", "the address of the admin API, if it is not the default")
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "configuration file to find the admin API's address in, if --address is not given")
	cmd.Flags().StringVarP(&f.adapter, "adapter", "a", "", "name of the config adapter to apply to --config")
}

// request asks the admin API of the Caddy that runs here.
func (f *adminFlags) request(method, uri string) ([]byte, error) { return f.send(method, uri, "") }

// send is request with a body of JSON; empty: none.
func (f *adminFlags) send(method, uri, body string) ([]byte, error) {
	address, err := f.find()
	if err != nil {
		return nil, err
	}
	answer, err := askAdmin(address, method, uri, body)
	if err != nil {
		return nil, adminError(address, err)
	}
	return answer, nil
}

// find returns the address of the admin API.
func (f *adminFlags) find() (string, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(f.address, nil, f.config, f.adapter)
	if err != nil {
		return "", fmt.Errorf("finding the admin API: %w", err)
	}
	return address, nil
}

// askAdmin sends a request to an admin API; adminError explains the error. Each
// request has a transport of its own: a connection that were kept could not be used
// again, and would be left for as long as Caddy keeps it.
func askAdmin(address, method, uri, body string) ([]byte, error) {
	header := http.Header{"Connection": {"close"}}
	var content io.Reader
	if body != "" {
		header.Set("Content-Type", "application/json")
		content = strings.NewReader(body)
	}
	res, err := caddycmd.AdminAPIRequest(address, method, uri, header, content)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, maxAdminAnswer))
}

// answerMark is what stands before the status in the error of a request that was
// answered: what Caddy answered is known as text only.
const answerMark = ": HTTP "

// answered reports whether a request that failed was answered.
func answered(err error) bool { return strings.Contains(err.Error(), answerMark) }

// adminError says what to do about a request that failed.
func adminError(address string, err error) error {
	_, answer, ok := strings.Cut(err.Error(), answerMark)
	if !ok {
		return fmt.Errorf("asking the admin API at %s: %w (does Caddy run here, and is its admin API on? --address says where)", address, err)
	}
	status, text, _ := strings.Cut(answer, ": ")
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(text), &body) == nil && body.Error != "" {
		return errors.New(framecodec.SafeText([]byte(body.Error)))
	}
	if status == strconv.Itoa(http.StatusNotFound) {
		return fmt.Errorf("the Caddy at %s has no tunnels: it was built without this module", address)
	}
	return fmt.Errorf("the admin API at %s answered HTTP %s: %s", address, status, framecodec.SafeText([]byte(text)))
}

func newListCommand() *cobra.Command {
	var admin adminFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [--address <interface>] [--json]",
		Short: "Lists the tunnels of the Caddy that runs here",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := admin.request(http.MethodGet, adminPrefix+"/tunnels")
			if err != nil {
				return err
			}
			if asJSON {
				_, err = cmd.OutOrStdout().Write(list)
				return err
			}
			return printTunnels(cmd.OutOrStdout(), list)
		},
	}
	admin.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what the admin API answered")
	return cmd
}

// printTunnels writes the list for people.
func printTunnels(out io.Writer, list []byte) error {
	var tunnels []tunnelInfo
	if err := json.Unmarshal(list, &tunnels); err != nil {
		return errors.New("the admin API's answer cannot be read: does another version run?")
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSIDE\tOF\tIDENTITY\tCLIENT\tSTATE\tAGE\tSTREAMS\tIN\tOUT\tRTT")
	for _, t := range tunnels {
		of := t.Endpoint
		if t.Remote != "" {
			of = t.Remote
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%.0f ms\n", t.ID, t.Side, of,
			framecodec.SafeText([]byte(t.Identity)), t.ClientIP, t.State, time.Since(t.Since).Round(time.Second),
			t.Streams, humanize.IBytes(t.BytesIn), humanize.IBytes(t.BytesOut), t.RTT)
	}
	return table.Flush()
}

func newKillCommand() *cobra.Command {
	var admin adminFlags
	cmd := &cobra.Command{
		Use:   "kill <id>... [--address <interface>]",
		Short: "Ends tunnels of the Caddy that runs here",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			for _, id := range ids {
				if _, err := admin.request(http.MethodDelete, adminPrefix+"/tunnels/"+url.PathEscape(id)); err != nil {
					return fmt.Errorf("tunnel %s: %w", id, err)
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "ended %s\n", id)
			}
			return nil
		},
	}
	admin.register(cmd)
	return cmd
}
