package culvert

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

// runStdio joins standard input and output to one stream: what ssh wants of a
// ProxyCommand. Nothing but data goes to standard output.
func runStdio(cmd *cobra.Command, console *console, cfg client.Config, target tunnel.Target) error {
	ctx, stop := interrupted(cmd.Context(), console, true)
	defer stop()
	t, err := client.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = t.Close() }()
	conn, ep := tunnel.NewConn(tunnel.Addr{Net: "stdio", Text: "stdio"}, tunnel.Addr{Net: "webrtc", Text: target.String()})
	if _, err := t.OpenEndpoint(ctx, target, ep); err != nil {
		return &client.StepError{Step: client.StepOpen, URL: t.URL(), Err: err, Hint: openHint(tunnel.CodeOf(err))}
	}
	go func() { // ends with its input, or with the process
		if _, err := io.Copy(conn, cmd.InOrStdin()); err == nil {
			_ = conn.CloseWrite()
		}
	}()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(cmd.OutOrStdout(), conn)
		copied <- err
	}()
	cut, err := finished(ctx, copied)
	_ = conn.Close()
	if cut {
		return nil // on purpose
	}
	if ended, ok := errors.AsType[*tunnel.Error](err); ok {
		return ended // without the addresses, which say nothing here
	}
	return err
}

// finished waits for the end of a stream, after an interrupt for drainTime at
// the most: then it is to be cut.
func finished(ctx context.Context, ended <-chan error) (cut bool, err error) {
	select {
	case err = <-ended:
		return false, err
	case <-ctx.Done():
	}
	deadline := time.NewTimer(drainTime)
	defer deadline.Stop()
	select {
	case err = <-ended:
		return false, err
	case <-deadline.C:
		return true, nil
	}
}
