package top

import (
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// column is one of a table of rows R. The table has those of the lowest rank that
// fit into the terminal; what room is left goes to the wide ones.
type column[R any] struct {
	title string
	width int // in cells, the least
	wide  bool
	right bool
	rank  int
	text  func(r R, now time.Time) string
}

// mostWide is how far wide columns grow, in cells: an IPv6 address fits.
const mostWide = 39

var tunnelColumns = []column[*tunnelRow]{
	{"ID", 12, false, false, 3, func(t *tunnelRow, _ time.Time) string { return t.ID }},
	{"SIDE", 7, false, false, 12, func(t *tunnelRow, _ time.Time) string { return t.Side }},
	{"OF", 8, true, false, 5, func(t *tunnelRow, _ time.Time) string { return t.of() }},
	{"IDENTITY", 10, true, false, 4, func(t *tunnelRow, _ time.Time) string { return t.Identity }},
	{"CLIENT", 15, true, false, 11, func(t *tunnelRow, _ time.Time) string { return t.ClientIP }},
	{"STATE", 10, false, false, 9, func(t *tunnelRow, _ time.Time) string { return t.State }},
	{"AGE", 7, false, true, 7, func(t *tunnelRow, now time.Time) string { return shortDuration(now.Sub(t.Since)) }},
	{"STREAMS", 7, false, true, 6, func(t *tunnelRow, _ time.Time) string { return strconv.Itoa(t.Streams) }},
	{"IN/s", 10, false, true, 1, func(t *tunnelRow, _ time.Time) string { return perSecond(t.rate.in, t.rate.known) }},
	{"OUT/s", 10, false, true, 2, func(t *tunnelRow, _ time.Time) string { return perSecond(t.rate.out, t.rate.known) }},
	{"IN", 8, false, true, 8, func(t *tunnelRow, _ time.Time) string { return humanize.IBytes(t.BytesIn) }},
	{"OUT", 8, false, true, 8, func(t *tunnelRow, _ time.Time) string { return humanize.IBytes(t.BytesOut) }},
	{"RTT", 7, false, true, 10, func(t *tunnelRow, _ time.Time) string { return strconv.FormatFloat(t.RTT, 'f', 0, 64) + " ms" }},
}

var streamColumns = []column[*streamRow]{
	{"STREAM", 7, false, true, 3, func(s *streamRow, _ time.Time) string { return s.id }},
	{"TARGET", 10, true, false, 4, func(s *streamRow, _ time.Time) string { return s.target }},
	{"STATE", 9, false, false, 6, func(s *streamRow, _ time.Time) string { return s.state }},
	{"AGE", 7, false, true, 7, func(s *streamRow, _ time.Time) string {
		if s.age < 0 {
			return unknown
		}
		return shortDuration(s.age)
	}},
	{"IN/s", 10, false, true, 1, func(s *streamRow, _ time.Time) string { return perSecond(s.rate.in, s.rate.known) }},
	{"OUT/s", 10, false, true, 2, func(s *streamRow, _ time.Time) string { return perSecond(s.rate.out, s.rate.known) }},
	{"IN", 8, false, true, 8, func(s *streamRow, _ time.Time) string { return humanize.IBytes(s.bytesIn) }},
	{"OUT", 8, false, true, 8, func(s *streamRow, _ time.Time) string { return humanize.IBytes(s.bytesOut) }},
	{"WAITS FOR", 18, true, false, 5, func(s *streamRow, _ time.Time) string { return s.waits }},
}

// fitting returns the columns that have room in that many cells, with their widths
// for it.
func fitting[R any](all []column[R], width int) []column[R] {
	shown, used := make([]bool, len(all)), 0
	for rank := 1; ; rank++ {
		further := false
		for i, c := range all {
			if further = further || c.rank > rank; c.rank != rank {
				continue
			}
			if used+c.width > width {
				return spread(all, shown, width-used)
			}
			shown[i] = true
			used += c.width + 1
		}
		if !further {
			return spread(all, shown, width-used)
		}
	}
}

// spread gives the cells that are left to the wide columns among those shown.
func spread[R any](all []column[R], shown []bool, left int) []column[R] {
	var list []column[R]
	wide := 0
	for i, c := range all {
		if shown[i] {
			list = append(list, c)
			if c.wide {
				wide++
			}
		}
	}
	for i := range list {
		if list[i].wide && left > 0 {
			more := min(left/wide, max(mostWide-list[i].width, 0))
			list[i].width += more
			left -= more
			wide--
		}
	}
	return list
}

func titles[R any](columns []column[R]) string {
	return joined(columns, func(c column[R]) string { return c.title })
}

func cells[R any](columns []column[R], r R, now time.Time) string {
	return joined(columns, func(c column[R]) string { return c.text(r, now) })
}

func joined[R any](columns []column[R], text func(column[R]) string) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = cell(text(c), c.width, c.right)
	}
	return strings.Join(parts, " ")
}
