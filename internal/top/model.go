package top

import (
	"errors"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Config is what a screen is about.
type Config struct {
	Ask     Ask
	Address string // of the admin API, for people
	// Interval is how often the table is read. A gateway whose answer takes long is
	// asked less often: it rests for at least as long as it took.
	Interval time.Duration
	Sort     Sort
}

// mode is what keys mean.
type mode int

const (
	browsing mode = iota
	filtering
	asking // whether something is to be ended
	helping
)

// noticeTime is for how long the outcome of what a person did is shown.
const noticeTime = 5 * time.Second

// Model is the screen: what was read last, and where the person is in it. It is
// used by the one goroutine of bubbletea's that calls its methods.
type Model struct {
	cfg  Config
	wait func(time.Duration) tea.Cmd // for the next tick

	width, height int
	mode          mode
	now           time.Time // of the last message that has a time

	polling bool // an answer is due
	asked   time.Time
	took    time.Duration // the last answer
	rested  time.Time     // since when nothing is due
	failure error         // of the last answer; nil: the table is true
	failing time.Time     // since when

	tunnels []tunnelRow
	meter   meter

	open        string // id of the tunnel that is looked into; empty: none
	streams     []streamRow
	streamMeter meter
	streamsErr  error

	sort   Sort
	filter string
	view   table

	question question
	notice   string
	noticed  time.Time
}

// New returns a screen that has read nothing yet.
func New(cfg Config) *Model {
	return &Model{cfg: cfg, sort: cfg.Sort, wait: func(d time.Duration) tea.Cmd {
		return tea.Tick(d, func(t time.Time) tea.Msg { return tick(t) })
	}}
}

// The messages of our own.
type (
	tick time.Time

	// polled is an answer: the list, and what runs in one tunnel if one was open.
	polled struct {
		at      time.Time
		tunnels []tunnelRow
		err     error
		looked
	}

	// looked is what runs in a tunnel.
	looked struct {
		at      time.Time
		id      string // empty: nobody asked
		streams []streamRow
		err     error
	}

	// killed is the outcome of a kill.
	killed struct {
		what string
		err  error
	}
)

// Init implements tea.Model.
func (m *Model) Init() tea.Cmd {
	m.now = time.Now()
	return tea.Batch(m.poll(m.now), m.wait(m.cfg.Interval))
}

// Update implements tea.Model.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.view.fit(m.bodyHeight())
	case tick:
		return m, m.ticked(time.Time(msg))
	case polled:
		m.answered(msg)
	case looked:
		m.look(msg)
	case killed:
		if msg.err != nil {
			m.say("not ended: " + msg.err.Error())
			return m, nil
		}
		m.say("ended " + msg.what)
		if !m.polling { // what was ended should be seen to go
			return m, m.poll(m.now)
		}
	case tea.KeyPressMsg:
		return m, m.key(msg)
	case tea.PasteMsg:
		if m.mode == filtering {
			m.setFilter(m.filter + msg.Content)
		}
	}
	return m, nil
}

// ticked asks again when it is time.
func (m *Model) ticked(at time.Time) tea.Cmd {
	m.now = at
	if m.notice != "" && at.Sub(m.noticed) > noticeTime {
		m.notice = ""
	}
	if m.polling || at.Sub(m.rested) < m.took {
		return m.wait(m.cfg.Interval)
	}
	return tea.Batch(m.poll(at), m.wait(m.cfg.Interval))
}

// poll reads the list, and what runs in the open tunnel only: a gateway may have
// ten thousand others. A request that hangs is waited for, since another one would
// hang too; how long it takes is shown.
func (m *Model) poll(at time.Time) tea.Cmd {
	m.polling, m.asked = true, at
	ask, open := m.cfg.Ask, m.open
	return func() tea.Msg {
		list, err := ask.tunnels()
		p := polled{at: time.Now(), tunnels: list, err: err}
		if err == nil && open != "" {
			p.looked = lookInto(ask, open)
		}
		return p
	}
}

func lookInto(ask Ask, id string) looked {
	streams, err := ask.streams(id)
	return looked{time.Now(), id, streams, err}
}

// answered takes what a poll has brought.
func (m *Model) answered(p polled) {
	m.polling = false
	m.took = p.at.Sub(m.asked)
	m.now, m.rested = p.at, p.at
	if p.err != nil {
		if m.failure == nil {
			m.failing = p.at
		}
		m.failure = p.err
		return
	}
	m.failure = nil
	m.meter.rateTunnels(p.at, p.tunnels)
	m.tunnels = p.tunnels
	if m.open != "" && m.find(m.open) == nil {
		m.shut()
	}
	m.arrange()
	m.look(p.looked)
}

// look takes what runs in the open tunnel; of another one it is too late.
func (m *Model) look(l looked) {
	if l.id == "" || l.id != m.open {
		return
	}
	m.streamsErr = l.err
	if l.err != nil {
		return
	}
	first := m.streams == nil
	m.streamMeter.rateStreams(l.at, l.streams)
	m.streams = l.streams
	m.arrange()
	if first {
		m.view.reveal(len(m.streams))
	}
}

// into opens a tunnel.
func (m *Model) into(id string) tea.Cmd {
	m.shut()
	m.open = id
	m.arrange()
	ask := m.cfg.Ask
	return func() tea.Msg { return lookInto(ask, id) }
}

// shut closes the one that is open.
func (m *Model) shut() {
	m.open, m.streams, m.streamMeter, m.streamsErr = "", nil, meter{}, nil
}

// find returns a tunnel of the list, nil if it is not there.
func (m *Model) find(id string) *tunnelRow {
	for i := range m.tunnels {
		if m.tunnels[i].ID == id {
			return &m.tunnels[i]
		}
	}
	return nil
}

// arrange makes the rows anew after anything that they depend on has changed.
func (m *Model) arrange() {
	m.view.arrange(m.tunnels, m.streams, m.open, m.filter, m.sort)
	m.view.fit(m.bodyHeight())
}

func (m *Model) setFilter(text string) {
	m.filter = strings.Map(printable, text)
	m.arrange()
}

func (m *Model) say(text string) { m.notice, m.noticed = text, m.now }

// question is what a person is asked before something is ended. It names what was
// under the cursor then, whatever the rows do meanwhile.
type question struct{ tunnel, stream, text string }

// ask puts the question of the row under the cursor.
func (m *Model) ask() {
	r := m.view.current()
	if r == nil {
		return
	}
	t := r.tunnel
	m.question = question{tunnel: t.ID}
	if r.stream != nil {
		m.question.stream = r.stream.id
		m.question.text = fmt.Sprintf("End stream %s to %s, of tunnel %s (%s)? y/n", r.stream.id, r.stream.target, t.ID, ownerOf(t))
	} else {
		m.question.text = fmt.Sprintf("End tunnel %s (%s) and its %d streams? y/n", t.ID, ownerOf(t), t.Streams)
	}
	m.mode = asking
}

// ownerOf says whose a tunnel is.
func ownerOf(t *tunnelRow) string {
	if t.Remote != "" {
		return "remote " + t.Remote
	}
	if t.Identity == "" {
		return "anonymous at " + t.Endpoint
	}
	return t.Identity + " at " + t.Endpoint
}

// kill ends what was asked about.
func (m *Model) kill() tea.Cmd {
	ask, q := m.cfg.Ask, m.question
	what := "tunnel " + q.tunnel
	if q.stream != "" {
		what = "stream " + q.stream + " of " + what
	}
	return func() tea.Msg { return killed{what, ask.kill(q.tunnel, q.stream)} }
}

// status is the second line: what must be known before the table is believed.
func (m *Model) status() string {
	away, unreachable := errors.AsType[*UnreachableError](m.failure)
	switch {
	case m.mode == asking:
		return m.question.text
	case m.mode == filtering:
		return "filter: " + m.filter + "_"
	case unreachable:
		return fmt.Sprintf("cannot reach %s, trying again (since %s): %s", m.cfg.Address, shortDuration(m.now.Sub(m.failing)), away.Why)
	case m.failure != nil:
		return fmt.Sprintf("trying again (since %s): %v", shortDuration(m.now.Sub(m.failing)), m.failure)
	case m.polling && m.now.Sub(m.asked) > max(3*m.cfg.Interval, 2*time.Second):
		return fmt.Sprintf("no answer from %s for %s", m.cfg.Address, shortDuration(m.now.Sub(m.asked)))
	case m.notice != "":
		return m.notice
	case m.streamsErr != nil:
		return fmt.Sprintf("tunnel %s: %v", m.open, m.streamsErr)
	case m.filter != "":
		return fmt.Sprintf("filter: %s (%d of %d tunnels; / changes it)", m.filter, m.view.matching, len(m.tunnels))
	default:
		return ""
	}
}
