package culvert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/culvertgate/culvert/internal/top"
)

// leastInterval is how often the admin API may be asked: what is faster costs the
// gateway more than it tells a person.
const leastInterval = 200 * time.Millisecond

func newTopCommand() *cobra.Command {
	var admin adminFlags
	var interval time.Duration
	var sortBy string
	var once bool
	cmd := &cobra.Command{
		Use:   "top [--interval 1s] [--sort rate|bytes|age|name] [--once] [--address <interface>]",
		Short: "Shows the tunnels of the Caddy that runs here, live and sorted by rate",
		Long: `
Shows the tunnels of the Caddy that runs here, sorted by what they carry, and asks
again every second. Enter shows the streams of a tunnel and what each of them
waits for, k ends a tunnel or a stream after a question, / filters, s sorts by
something else, ? tells the rest, q quits.

Where standard output is no terminal, or with --once, it prints the table as plain
text and ends: it asks twice, --interval apart, so that the rates are known. What
is not known is a dash.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < leastInterval {
				return fmt.Errorf("--interval %s: give at least %s", interval, leastInterval)
			}
			order, err := top.ParseSort(sortBy)
			if err != nil {
				return fmt.Errorf("--sort: %w", err)
			}
			address, err := admin.find()
			if err != nil {
				return err
			}
			cfg := top.Config{Ask: askTop(address), Address: address, Interval: interval, Sort: order}
			out := cmd.OutOrStdout()
			if once || !isTerminal(out) {
				return topOnce(cmd, cfg)
			}
			return runTop(cmd.Context(), cfg, out)
		},
	}
	admin.register(cmd)
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "how often to ask, at least 200ms")
	cmd.Flags().StringVar(&sortBy, "sort", "rate", "order: rate, bytes, age or name")
	cmd.Flags().BoolVar(&once, "once", false, "print the table once, as plain text")
	return cmd
}

// askTop is the admin API as package top wants it.
func askTop(address string) top.Ask {
	return func(method, path string) ([]byte, error) {
		answer, err := askAdmin(address, method, adminPrefix+path, "")
		switch {
		case err == nil:
			return answer, nil
		case answered(err):
			return nil, adminError(address, err)
		default:
			return nil, &top.UnreachableError{Err: adminError(address, err), Why: lastCause(err)}
		}
	}
}

// lastCause is what an error of a request says behind the request, which is text
// only: connect: connection refused.
func lastCause(err error) string {
	text := err.Error()
	if _, cause, ok := strings.Cut(text, "\": "); ok {
		return cause
	}
	return text
}

// topOnce prints the table. An interrupt ends it without one.
func topOnce(cmd *cobra.Command, cfg top.Config) error {
	ctx, stop := interrupted(cmd.Context(), newConsole(cmd), false)
	defer stop()
	err := top.Snapshot(ctx, cfg, cmd.OutOrStdout())
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// runTop shows the table until a person quits. Bubble Tea restores the terminal in
// any case, a panic included; an interrupt from outside is a quit.
func runTop(ctx context.Context, cfg top.Config, out io.Writer) error {
	_, err := tea.NewProgram(top.New(cfg), tea.WithContext(ctx), tea.WithOutput(out)).Run()
	if errors.Is(err, tea.ErrInterrupted) || ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the terminal: %w (--once prints the table as plain text)", err)
	}
	return nil
}
