package top

import (
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
)

// help is what ? shows.
var help = []string{
	"up, down, page up, page down     move; the cursor stays with its tunnel or stream",
	"home, end                        first row (the list moves below it), last row",
	"enter, right                     show the streams of a tunnel, and what they wait for",
	"enter, left, escape              show them no longer",
	"s                                sort by rate, bytes, age or name",
	"/                                filter by id, identity, endpoint, remote, address, side or state",
	"k                                end the tunnel or stream, after a question",
	"q, ctrl-c                        quit",
	"",
	"in: from the peer, out: towards it. A stream's wait: target (a dial, or the answer), credit (of",
	"the peer), room (in the carrier), rate (its limit), reader (the connection here takes nothing), data",
	"(nothing new).",
	"",
	"any key goes back",
}

// footer is the last line.
const footer = "enter: streams  s: sort  /: filter  k: kill  ?: help  q: quit"

// key does what a key means.
func (m *Model) key(k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "ctrl+c":
		return tea.Quit
	case "ctrl+z":
		return tea.Suspend
	}
	switch m.mode {
	case asking:
		m.mode = browsing
		if k.String() == "y" || k.String() == "Y" {
			return m.kill()
		}
		return nil
	case filtering:
		m.filterKey(k)
		return nil
	case helping:
		m.mode = browsing
		return nil
	default:
		return m.browseKey(k)
	}
}

// filterKey edits the filter; the table follows at once.
func (m *Model) filterKey(k tea.KeyPressMsg) {
	switch k.String() {
	case "enter":
		m.mode = browsing
	case "esc":
		m.mode = browsing
		m.setFilter("")
	case "backspace":
		_, size := utf8.DecodeLastRuneInString(m.filter)
		m.setFilter(m.filter[:len(m.filter)-size])
	case "ctrl+u":
		m.setFilter("")
	default:
		m.setFilter(m.filter + k.Text)
	}
}

func (m *Model) browseKey(k tea.KeyPressMsg) tea.Cmd {
	v := &m.view
	switch k.String() {
	case "q":
		return tea.Quit
	case "?":
		m.mode = helping
	case "/":
		m.mode = filtering
	case "s":
		m.sort = m.sort.next()
		m.arrange()
	case "up":
		v.move(v.cursor - 1)
	case "down":
		v.move(v.cursor + 1)
	case "pgup":
		v.move(v.cursor - max(v.height, 1))
	case "pgdown":
		v.move(v.cursor + max(v.height, 1))
	case "home", "g":
		v.move(0)
	case "end", "G":
		v.move(len(v.rows) - 1)
	case "enter", "right":
		return m.enter(k.String() == "enter")
	case "left", "esc":
		m.leave()
	case "k":
		m.ask()
	}
	return nil
}

// enter opens the tunnel under the cursor; with toggle it closes the one that is.
func (m *Model) enter(toggle bool) tea.Cmd {
	r := m.view.current()
	switch {
	case r == nil:
		return nil
	case r.tunnel.ID != m.open:
		m.view.picked = key{tunnel: r.tunnel.ID} // while it is open the cursor stays with it
		return m.into(r.tunnel.ID)
	case toggle:
		m.leave()
	}
	return nil
}

// leave closes the open tunnel; the cursor goes to it.
func (m *Model) leave() {
	if m.open == "" {
		return
	}
	if r := m.view.current(); r != nil && r.tunnel.ID == m.open {
		m.view.picked = key{tunnel: m.open}
	}
	m.shut()
	m.arrange()
	m.view.move(m.view.cursor)
}
