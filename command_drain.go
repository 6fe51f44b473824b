package culvert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

const drainLook = 500 * time.Millisecond // how often the command asks what is left

func newDrainCommand() *cobra.Command {
	var admin adminFlags
	var deadline time.Duration
	var cancel, noWait bool
	cmd := &cobra.Command{
		Use:   "drain [--deadline 30s] [--no-wait] | drain --cancel",
		Short: "Lets no new tunnels and streams in, and ends what is left at a deadline",
		Long: `
Tells the Caddy that runs here to take no new tunnels and streams, and waits until
the running streams have ended or the deadline is over, when those that are left
end with the code draining. Caddy itself goes on: stop it then, or take the drain
back with --cancel. Ctrl-C ends this command, not the drain.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			console := newConsole(cmd)
			if cancel {
				if _, err := admin.request(http.MethodDelete, adminPrefix+"/drain"); err != nil {
					return err
				}
				console.say("the drain is taken back: new tunnels and streams are let in")
				return nil
			}
			body := ""
			if cmd.Flags().Changed("deadline") {
				if deadline < 0 {
					return errors.New("--deadline must not be negative")
				}
				body = fmt.Sprintf(`{"deadline":%q}`, deadline)
			}
			answer, err := admin.send(http.MethodPost, adminPrefix+"/drain", body)
			if err != nil {
				return err
			}
			return awaitDrain(cmd, console, &admin, answer, noWait)
		},
	}
	admin.register(cmd)
	cmd.Flags().DurationVar(&deadline, "deadline", 0, "how long streams may finish; without it: timeouts drain of the configuration")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "take a drain back")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return at once")
	return cmd
}

// awaitDrain tells what is left until nothing is, or the deadline is over.
func awaitDrain(cmd *cobra.Command, console *console, admin *adminFlags, answer []byte, noWait bool) error {
	ctx, stop := interrupted(cmd.Context(), console, false)
	defer stop()
	said := ""
	for {
		var state drainInfo
		if err := json.Unmarshal(bytes.TrimSpace(answer), &state); err != nil {
			return errors.New("the admin API's answer cannot be read: does another version run?")
		}
		left := time.Until(state.Deadline).Round(time.Second)
		text := fmt.Sprintf("draining: %d streams and %d tunnels are left, for at most %s", state.Streams, state.Tunnels, max(left, 0))
		if said == "" {
			console.say("%s", text)
		} else {
			console.progress(text)
		}
		said = text
		switch {
		case noWait:
			return nil
		case !state.Draining:
			console.clear()
			return errors.New("the drain was taken back")
		case state.Streams == 0:
			console.say("drained: no stream is left")
			return nil
		}
		select {
		case <-ctx.Done():
			console.say("the drain goes on; take it back with: caddy webrtc-tunnel drain --cancel")
			return nil
		case <-time.After(drainLook):
		}
		var err error
		if answer, err = admin.request(http.MethodGet, adminPrefix+"/drain"); err != nil {
			return err
		}
	}
}
