package top

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Snapshot writes the table once, as plain text: all tunnels with their rates over
// cfg.Interval, for which it waits. It ends early, without output, with ctx.
func Snapshot(ctx context.Context, cfg Config, out io.Writer) error {
	var m meter
	list, err := cfg.Ask.tunnels()
	if err != nil {
		return err
	}
	m.rateTunnels(time.Now(), list)
	select {
	case <-time.After(cfg.Interval):
	case <-ctx.Done():
		return ctx.Err()
	}
	if list, err = cfg.Ask.tunnels(); err != nil {
		return err
	}
	now := time.Now()
	m.rateTunnels(now, list)
	var t table
	t.arrange(list, nil, "", "", cfg.Sort)
	return writeTable(out, t.rows, now)
}

// writeTable writes all columns, as wide as they need. No cell is empty, so that the
// eye finds its column. Programs cannot count them, for identities and numbers have
// spaces: they ask the admin API.
func writeTable(out io.Writer, rows []row, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	texts := make([]string, 0, len(tunnelColumns))
	for _, c := range tunnelColumns {
		texts = append(texts, c.title)
	}
	fmt.Fprintln(table, strings.Join(texts, "\t"))
	for _, r := range rows {
		texts = texts[:0]
		for _, c := range tunnelColumns {
			texts = append(texts, cmp.Or(safe(c.text(r.tunnel, now)), unknown))
		}
		fmt.Fprintln(table, strings.Join(texts, "\t"))
	}
	return table.Flush()
}
