package top

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/dustin/go-humanize"
)

// frame is how many lines stand around the rows: title, status, headings, footer.
const frame = 4

// indent is what streams stand behind, and the mark of the cursor and of an open
// tunnel.
const (
	mark   = 2
	indent = 4
)

var (
	plain   = ansi.NewStyle()
	bold    = ansi.NewStyle(ansi.AttrBold)
	faint   = ansi.NewStyle(ansi.AttrFaint)
	reverse = ansi.NewStyle(ansi.AttrReverse)
)

// bodyHeight is how many rows there is room for. The headings of streams take one.
func (m *Model) bodyHeight() int {
	height := m.height - frame
	if m.open != "" {
		height--
	}
	return max(height, 0)
}

// View implements tea.Model. It writes the rows in view only, however many there
// are.
func (m *Model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	return v
}

// lines are the screen, top to bottom, never more than it has.
func (m *Model) lines() []string {
	if m.height <= 0 || m.width <= 0 {
		return nil
	}
	lines := []string{bold.Styled(line(m.title(), m.width)), line(m.status(), m.width)}
	if m.mode == helping {
		for _, text := range help {
			lines = append(lines, line(text, m.width))
		}
		return lines[:min(len(lines), m.height)]
	}
	lines = append(lines, m.body()...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	if m.height >= frame {
		lines = append(lines[:m.height-1], faint.Styled(line(footer, m.width)))
	}
	return lines[:min(len(lines), m.height)]
}

// body is the headings and the rows in view.
func (m *Model) body() []string {
	columns, inside := fitting(tunnelColumns, m.width-mark), fitting(streamColumns, m.width-indent)
	lines := []string{m.styled(bold, "  "+titles(columns))}
	if len(m.view.rows) == 0 {
		return append(lines, line("  "+m.nothing(), m.width))
	}
	for i, r := range m.view.seen() {
		var text string
		switch {
		case r.stream != nil:
			text = "    " + cells(inside, m.trusted(r).stream, m.now)
		case r.tunnel.ID == m.open:
			text = "v " + cells(columns, m.trusted(r).tunnel, m.now)
		default:
			text = "  " + cells(columns, m.trusted(r).tunnel, m.now)
		}
		style := plain
		if m.view.offset+i == m.view.cursor {
			style = reverse
		}
		lines = append(lines, m.styled(style, text))
		if r.stream == nil && r.tunnel.ID == m.open {
			lines = append(lines, m.styled(faint, "    "+titles(inside)))
		}
	}
	return lines
}

// styled cuts a line that is harmless already.
func (m *Model) styled(style ansi.Style, text string) string {
	return style.Styled(ansi.Truncate(text, m.width, ""))
}

// trusted is a row without its rates while nobody knows them.
func (m *Model) trusted(r row) row {
	if m.failure == nil {
		return r
	}
	t := *r.tunnel
	t.rate = rate{}
	r.tunnel = &t
	if r.stream != nil {
		s := *r.stream
		s.rate = rate{}
		r.stream = &s
	}
	return r
}

// nothing says why there are no rows.
func (m *Model) nothing() string {
	switch {
	case m.meter.last == nil:
		return "asking " + m.cfg.Address + " ..."
	case len(m.tunnels) > 0:
		return "no tunnel matches the filter"
	default:
		return "there is no tunnel"
	}
}

// title is the first line: the sum of all tunnels.
func (m *Model) title() string {
	streams, sum := 0, rate{}
	for i := range m.tunnels {
		t := &m.tunnels[i]
		streams += t.Streams
		if t.rate.known {
			sum = rate{sum.in + t.rate.in, sum.out + t.rate.out, m.failure == nil}
		}
	}
	return fmt.Sprintf("%s: %s tunnels, %s streams, in %s, out %s; sorted by %s", m.cfg.Address,
		humanize.Comma(int64(len(m.tunnels))), humanize.Comma(int64(streams)), perSecond(sum.in, sum.known), perSecond(sum.out, sum.known), m.sort)
}
