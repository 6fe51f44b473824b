package culvert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel/client"
)

// newTargetsCommand lists the targets.
func newTargetsCommand() *cobra.Command {
	var gateway gatewayFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "targets --url <gateway> [--json]",
		Short: "Lists the targets that you may reach through a gateway",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			console := newConsole(cmd)
			cfg, err := gateway.config(console)
			if err != nil {
				return err
			}
			cfg.Progress = console.showProgress
			list, err := client.Targets(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if asJSON {
				_, err = cmd.OutOrStdout().Write(list)
				return err
			}
			return printTargets(cmd.OutOrStdout(), list)
		},
	}
	gateway.registerRequests(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what the gateway answered")
	return cmd
}

// targetsAnswer is what a gateway says of its targets.
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
