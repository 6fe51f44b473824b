package culvert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvertgate/culvert/framecodec"
	"github.com/culvertgate/culvert/tunnel"
	"github.com/culvertgate/culvert/tunnel/client"
)

// errUnwell makes doctor's exit code; what is wrong has been printed.
var errUnwell = errors.New("a step failed")

func newDoctorCommand() *cobra.Command {
	var gateway gatewayFlags
	var target string
	cmd := &cobra.Command{
		Use:   "doctor --url <gateway> [--target <target>]",
		Short: "Goes through each step from the gateway's name to an open stream",
		Long: `
Goes through each step of reaching a target: looking up the gateway's name,
connecting, TLS, offer and answer, a network path over UDP, encryption, the data
channel, the first frames, the target list, and a stream. It tells of each what
was tried, how long it took, how it ended, and after a failure what to do.
Without --target the stream goes to the first usable target of the list.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if target != "" {
				if err := checkStreamTarget(target); err != nil {
					return err
				}
			}
			cfg, err := gateway.config(newConsole(cmd))
			if err != nil {
				return err
			}
			if cfg.Dialect == tunnel.Dialect1 && tunnel.ValidTargetName(target) {
				cfg.Target = target
			}
			d := &doctor{out: cmd.OutOrStdout(), cfg: cfg, target: target}
			ctx, stop := interrupted(cmd.Context(), newConsole(cmd), false)
			defer stop()
			return d.run(ctx)
		},
	}
	gateway.register(cmd)
	cmd.Flags().StringVar(&target, "target", "", "where the stream shall go: a target's name, or tcp/host:port")
	return cmd
}

// doctor prints a line for each step.
type doctor struct {
	cfg    client.Config
	target string

	mu  sync.Mutex // steps are told by different goroutines
	out io.Writer
}

// report writes the line of one step, and what to do after a failure.
func (d *doctor) report(what, detail string, took time.Duration, err error, hint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	outcome := "ok"
	if err != nil {
		outcome = "FAILED"
	}
	line := fmt.Sprintf("%-6s  %-38s %8s", outcome, what, took.Round(100*time.Microsecond))
	if detail != "" {
		line += "  " + detail
	}
	fmt.Fprintln(d.out, line)
	if err != nil {
		fmt.Fprintf(d.out, "        %v\n", err)
	}
	if hint != "" {
		fmt.Fprintf(d.out, "        what to do: %s\n", hint)
	}
}

func (d *doctor) run(ctx context.Context) error {
	d.cfg.Progress = func(p client.Progress) {
		if !p.Done {
			return
		}
		hint := ""
		err := p.Err
		if failed, ok := errors.AsType[*client.StepError](err); ok {
			hint, err = failed.Hint, failed.Err
		}
		d.report(p.Step.Describe(), p.Detail, p.Took, err, hint)
	}
	var failure error
	for _, url := range d.cfg.URLs {
		fmt.Fprintf(d.out, "%s\n", url)
		if err := d.visit(ctx, url); err != nil {
			failure = err
		}
	}
	return failure
}

// visit goes through the steps of one gateway.
func (d *doctor) visit(ctx context.Context, url string) error {
	cfg := d.cfg
	cfg.URLs = []string{url}
	t, err := client.Dial(ctx, cfg)
	if err != nil {
		return errUnwell
	}
	defer func() { _ = t.Close() }()
	target, err := d.chooseTarget(ctx, t)
	if err != nil {
		return errUnwell
	}
	if target == "" {
		d.report(client.StepOpen.Describe(), "not tried", 0, nil, "there is no usable target for you here; name one with --target, or have one configured")
		return nil
	}
	return d.open(ctx, t, target)
}

// chooseTarget returns what was asked for, or the first usable target.
func (d *doctor) chooseTarget(ctx context.Context, t *client.Tunnel) (string, error) {
	began := time.Now()
	list, err := t.Targets(ctx)
	var answer targetsAnswer
	if err == nil {
		answer, err = parseTargets(list)
	}
	if err != nil && d.target != "" {
		return d.target, nil // a gateway of another kind may have no list
	}
	detail := fmt.Sprintf("targets for you: %d", len(answer.Targets))
	d.report(client.StepTargets.Describe(), detail, time.Since(began), err, "")
	if d.target != "" || err != nil {
		return d.target, err
	}
	for _, candidate := range answer.Targets {
		if candidate.Usable && tunnel.ValidTargetName(candidate.Name) {
			return candidate.Name, nil
		}
	}
	return "", nil
}

// open opens a stream and closes it again.
func (d *doctor) open(ctx context.Context, t *client.Tunnel, target string) error {
	began := time.Now()
	conn, err := t.Open(ctx, target)
	took := time.Since(began)
	if err != nil {
		d.report(client.StepOpen.Describe(), target, took, err, openHint(tunnel.CodeOf(err)))
		return errUnwell
	}
	stats := t.Stats()
	d.report(client.StepOpen.Describe(), fmt.Sprintf("%s, by %s", target, stats.Peer.CandidatePair), took, nil, "")
	return conn.Close()
}

// openHint says what to do about a stream that was not opened.
func openHint(code tunnel.Code) string {
	switch code {
	case framecodec.CodeNotAllowed:
		return "the gateway's policy refuses this target for you: ask its operator, who can see why with POST /webrtc_tunnel/explain"
	case framecodec.CodeUnknownTarget:
		return "caddy webrtc-tunnel targets lists the names"
	case framecodec.CodeRefused, framecodec.CodeUnreachable, framecodec.CodeTimeout, framecodec.CodeResolveFailed:
		return "the tunnel works, but the gateway does not reach the target: is it up, and is its address right?"
	default:
		return ""
	}
}
