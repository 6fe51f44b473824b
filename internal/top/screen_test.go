package top

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// api is an admin API in memory.
type api struct {
	list    []map[string]any
	details map[string]string // by id
	err     error             // of every request
	killErr error
	asked   []string
}

func (a *api) ask(method, path string) ([]byte, error) {
	a.asked = append(a.asked, method+" "+path)
	switch id, below := strings.CutPrefix(path, "/tunnels/"); {
	case a.err != nil:
		return nil, a.err
	case method == "DELETE":
		return nil, a.killErr
	case !below:
		return json.Marshal(a.list)
	case a.details[id] == "":
		return nil, errors.New("no tunnel " + id)
	default:
		return []byte(a.details[id]), nil
	}
}

// seen returns how often a request was sent.
func (a *api) seen(request string) int {
	n := 0
	for _, r := range a.asked {
		if r == request {
			n++
		}
	}
	return n
}

var epoch = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// tunnelOf is one of a gateway's, an hour old at the epoch.
func tunnelOf(id, identity string, in, out int) map[string]any {
	return map[string]any{
		"id": id, "side": "gateway", "endpoint": "gw", "identity": identity, "client_ip": "192.0.2.7", "state": "open",
		"since": epoch.Add(-time.Hour), "streams": 1, "bytes_in": in, "bytes_out": out, "rtt_ms": 12.4,
	}
}

// screen is a model that a test drives; its clock goes by hand.
type screen struct {
	t          *testing.T
	m          *Model
	api        *api
	at         time.Time
	hang, quit bool
}

func newScreen(t *testing.T, a *api) *screen {
	t.Helper()
	m := New(Config{Ask: a.ask, Address: "127.0.0.1:2019", Interval: time.Second})
	m.wait = func(time.Duration) tea.Cmd { return nil }
	s := &screen{t: t, m: m, api: a, at: epoch}
	m.Update(tea.WindowSizeMsg{Width: 140, Height: 24})
	s.run(m.Init())
	return s
}

// run does what the model wants done, except while requests hang.
func (s *screen) run(cmd tea.Cmd) {
	if cmd == nil || s.hang {
		return
	}
	switch msg := cmd().(type) {
	case nil:
	case tea.BatchMsg:
		for _, c := range msg {
			s.run(c)
		}
	case tea.QuitMsg:
		s.quit = true
	case polled:
		msg.at, msg.looked.at = s.at, s.at // the test's clock
		s.send(msg)
	case looked:
		msg.at = s.at
		s.send(msg)
	default:
		s.send(msg)
	}
}

func (s *screen) send(msg tea.Msg) {
	_, cmd := s.m.Update(msg)
	s.run(cmd)
}

// tick lets time pass.
func (s *screen) tick(d time.Duration) {
	s.at = s.at.Add(d)
	s.send(tick(s.at))
}

// press types keys: single letters, or names as bubbletea has them.
func (s *screen) press(keys ...string) {
	named := map[string]rune{
		"up": tea.KeyUp, "down": tea.KeyDown, "left": tea.KeyLeft, "right": tea.KeyRight, "enter": tea.KeyEnter, "esc": tea.KeyEscape,
		"backspace": tea.KeyBackspace, "home": tea.KeyHome, "end": tea.KeyEnd, "pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown,
	}
	for _, k := range keys {
		switch code, ok := named[k]; {
		case ok:
			s.send(tea.KeyPressMsg{Code: code})
		case k == "ctrl+c":
			s.send(tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl})
		default:
			s.send(tea.KeyPressMsg{Code: []rune(k)[0], Text: k})
		}
	}
}

// lines are what a person sees, styles aside; they fit the terminal.
func (s *screen) lines() []string {
	s.t.Helper()
	lines := s.m.lines()
	if len(lines) > s.m.height {
		s.t.Fatalf("%d lines for a terminal of %d", len(lines), s.m.height)
	}
	for i, l := range lines {
		lines[i] = ansi.Strip(l)
		if w := ansi.StringWidth(lines[i]); w > s.m.width {
			s.t.Fatalf("a line of %d cells for a terminal of %d: %q", w, s.m.width, l)
		}
	}
	return lines
}

// line is the one that holds a text.
func (s *screen) line(text string) string {
	s.t.Helper()
	for _, l := range s.lines() {
		if strings.Contains(l, text) {
			return l
		}
	}
	s.t.Fatalf("%q is not shown:\n%s", text, strings.Join(s.lines(), "\n"))
	return ""
}

func (s *screen) shows(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		s.line(text)
	}
}

func (s *screen) hides(text string) {
	s.t.Helper()
	if all := strings.Join(s.lines(), "\n"); strings.Contains(all, text) {
		s.t.Errorf("%q is shown:\n%s", text, all)
	}
}

// order is the order in which texts are shown.
func (s *screen) order(texts ...string) []string {
	s.t.Helper()
	all := strings.Join(s.lines(), "\n")
	slices.SortFunc(texts, func(a, b string) int { return strings.Index(all, a) - strings.Index(all, b) })
	return texts
}

// under is the line under the cursor.
func (s *screen) under() string {
	s.t.Helper()
	for _, l := range s.m.lines() {
		if strings.Contains(l, "\x1b[7m") {
			return ansi.Strip(l)
		}
	}
	s.t.Fatal("no line is under the cursor")
	return ""
}

const twoStreams = `{"stream_list":[
	{"id":3,"target":"ssh","opened":true,"sending":true,"receiving":true,"bytes_in":%d,"bytes_out":1000,"age_ms":61000,
		"out":{"waits_for":"room","waits_ms":3000},"in":{"waits_for":"data","waits_ms":12000}},
	{"id":7,"target":"tcp/10.0.0.7:5432","opened":false,"age_ms":1000,"out":{"waits_for":"target","waits_ms":1000},"in":{"waits_for":"target","waits_ms":1000}}],
	"raw_channels":[{"id":"raw-1","target":"vnc","opened":true,"bytes_in":5},{"id":"raw-2","target":"old","code":"normal"}]}`

func TestSortedByRate(t *testing.T) {
	a := &api{list: []map[string]any{tunnelOf("aaa", "alice", 1<<30, 0), tunnelOf("bbb", "bob", 0, 0), tunnelOf("ccc", "carol", 0, 500)}}
	s := newScreen(t, a)
	s.shows("3 tunnels, 3 streams, in -, out -; sorted by rate", "IDENTITY", "1h00m", "12 ms")
	if got := s.order("bob", "alice", "carol"); !slices.Equal(got, []string{"alice", "carol", "bob"}) {
		t.Errorf("before rates are known: %v, want by bytes", got)
	}
	a.list[1]["bytes_out"], a.list[2]["bytes_in"] = 4<<20, 1<<20
	a.list = append(a.list, tunnelOf("ddd", "dave", 2<<30-1, 0)) // it came
	s.tick(2 * time.Second)
	if got := s.order("alice", "bob", "carol", "dave"); !slices.Equal(got, []string{"bob", "carol", "alice", "dave"}) {
		t.Errorf("by rate: %v", got)
	}
	if l := s.line("bob"); !strings.Contains(l, "0 B/s  2.0 MiB/s") {
		t.Errorf("bob's rates: %q", l)
	}
	if l := s.line("dave"); strings.Count(l, " - ") != 2 {
		t.Errorf("the rates of a tunnel that came are not known: %q", l)
	}
	s.shows("4 tunnels", "in 512 KiB/s, out 2.0 MiB/s")
	for _, want := range [][]string{{"dave", "alice", "bob", "carol"}, {"alice", "bob", "carol", "dave"}, {"alice", "bob", "carol", "dave"}, {"bob", "carol", "alice", "dave"}} {
		s.press("s")
		if got := s.order("alice", "bob", "carol", "dave"); !slices.Equal(got, want) {
			t.Errorf("by %v: %v, want %v", s.m.sort, got, want)
		}
	}
	a.list = a.list[2:] // two went
	s.tick(time.Second)
	s.shows("2 tunnels")
	s.hides("alice")
}

func TestStreamsOfOne(t *testing.T) {
	a := &api{list: []map[string]any{tunnelOf("aaa", "alice", 0, 0), tunnelOf("bbb", "bob", 0, 0)}, details: map[string]string{"bbb": fmt.Sprintf(twoStreams, 0)}}
	s := newScreen(t, a)
	s.press("down", "enter")
	s.shows("v bbb", "WAITS FOR", "out: room 3s, in: data 12s", "the target, 1s", "opening", "raw-1", "1m01s")
	s.hides("old")
	a.details["bbb"] = fmt.Sprintf(twoStreams, 6<<20)
	s.tick(2 * time.Second)
	if l := s.line("ssh"); !strings.Contains(l, "3.0 MiB/s") || !strings.Contains(l, "6.0 MiB") {
		t.Errorf("the stream's rate: %q", l)
	}
	if got := s.order("raw-1", "ssh", "10.0.0.7"); got[0] != "ssh" {
		t.Errorf("streams by rate: %v", got)
	}
	s.press("down", "down", "left") // from a stream, back to its tunnel
	if s.hides("ssh"); !strings.Contains(s.under(), "bob") {
		t.Errorf("the cursor is at %q", s.under())
	}
	s.press("right", "right")
	s.shows("ssh")
	s.press("enter")
	s.hides("ssh")
	s.press("enter")
	delete(a.details, "bbb")
	s.tick(2 * time.Second)
	s.shows("tunnel bbb: no tunnel bbb")
	a.list = a.list[:1] // it went
	s.tick(2 * time.Second)
	s.hides("ssh")
	s.hides("no tunnel bbb")
	if !strings.Contains(s.under(), "alice") {
		t.Errorf("the cursor is at %q", s.under())
	}
}

// TestDetailsOfTheOpenOnly: a gateway with ten thousand tunnels is asked for the
// streams of one.
func TestDetailsOfTheOpenOnly(t *testing.T) {
	a := &api{details: map[string]string{}}
	for i := range 10_000 {
		id := fmt.Sprintf("t%05d", i)
		a.list = append(a.list, tunnelOf(id, "user"+id, i, 0))
		a.details[id] = fmt.Sprintf(twoStreams, 0)
	}
	s := newScreen(t, a)
	s.press("end", "enter")
	s.tick(time.Second)
	s.tick(time.Second)
	if got, want := len(a.asked), 3+3; got != want || a.seen("GET /tunnels/t00000") != 3 {
		t.Errorf("asked %d times, want %d: %v", got, want, a.asked)
	}
	s.shows("10,000 tunnels", "ssh")
	if n := len(s.lines()); n != 24 {
		t.Errorf("%d lines", n)
	}
}

func TestCursor(t *testing.T) {
	a := &api{}
	for i := range 100 {
		a.list = append(a.list, tunnelOf(fmt.Sprintf("t%02d", i), fmt.Sprintf("user%02d", i), 1000-i, 0))
	}
	s := newScreen(t, a)
	faster := func(i, bytes int) {
		a.list[i]["bytes_in"] = a.list[i]["bytes_in"].(int) + bytes
		s.tick(time.Second)
	}
	at := func(want string) {
		t.Helper()
		if !strings.Contains(s.under(), want) {
			t.Errorf("the cursor is at %q, want %s", s.under(), want)
		}
	}
	at("user00")
	faster(50, 1000) // at the first row the list moves below the cursor
	at("user50")
	s.press("down")
	at("user00")
	faster(51, 5000) // elsewhere it goes with its row
	s.press("down", "up")
	at("user00")
	s.press("pgdown")
	at("user20")
	s.press("end", "down", "down")
	at("user99")
	s.press("pgup", "home", "up")
	at("user51")
	a.list = a.list[:3]
	s.tick(time.Second)
	s.press("end")
	a.list = a.list[:2] // the row under the cursor went
	s.tick(time.Second)
	at("user01")
	a.list = nil
	s.tick(time.Second)
	s.shows("there is no tunnel")
	s.press("k", "enter", "left", "end", "up", "pgdown") // nothing to do
	s.hides("y/n")
}

func TestKill(t *testing.T) {
	a := &api{list: []map[string]any{tunnelOf("a/a", "alice", 0, 0), tunnelOf("bbb", "bob", 0, 0)}, details: map[string]string{"a%2Fa": fmt.Sprintf(twoStreams, 0)}}
	s := newScreen(t, a)
	for _, no := range []string{"n", "esc", "k", "q"} {
		s.press("k")
		s.shows("End tunnel a/a (alice at gw) and its 1 streams? y/n")
		s.press(no)
		s.hides("y/n")
	}
	if s.quit || a.seen("DELETE /tunnels/a%2Fa") != 0 {
		t.Errorf("without a yes: quit %v, %v", s.quit, a.asked)
	}
	s.press("k")
	a.list[1]["bytes_in"] = 1 << 20 // another tunnel gets under the cursor
	s.tick(time.Second)
	s.press("y")
	if a.seen("DELETE /tunnels/a%2Fa") != 1 {
		t.Errorf("asked %v", a.asked)
	}
	s.shows("ended tunnel a/a")
	s.tick(2 * noticeTime)
	s.hides("ended tunnel")

	s.press("end", "enter")
	s.press("down", "down", "k")
	s.shows("End stream raw-1 to vnc, of tunnel a/a (alice at gw)? y/n")
	a.killErr = errors.New("no stream")
	s.press("y")
	s.shows("not ended: no stream")
	if a.seen("DELETE /tunnels/a%2Fa/streams/raw-1") != 1 {
		t.Errorf("asked %v", a.asked)
	}
	s.press("k", "ctrl+c")
	if !s.quit {
		t.Error("Ctrl-C does not quit a question")
	}
}

func TestFilter(t *testing.T) {
	a := &api{list: []map[string]any{tunnelOf("aaa", "alice", 0, 0), tunnelOf("bbb", "Bob", 0, 0)}}
	s := newScreen(t, a)
	s.press("/", "b", "O", "x", "q")
	s.shows("filter: bOxq_", "no tunnel matches the filter")
	s.press("backspace", "backspace")
	s.shows("Bob")
	s.hides("alice")
	s.press("enter")
	s.shows("filter: bO (1 of 2 tunnels; / changes it)")
	s.tick(time.Second)
	s.hides("alice")
	s.press("/")
	s.send(tea.PasteMsg{Content: "\x1b]0;owned\x07\r\nb"})
	if s.m.filter != "bO]0;ownedb" {
		t.Errorf("pasted: %q", s.m.filter)
	}
	s.press("esc")
	s.shows("alice", "Bob")
	s.press("/", "backspace", "2", ".", "7", "enter") // the address
	s.shows("alice", "Bob")
	if s.quit {
		t.Error("a letter of the filter has quit")
	}
	s.press("q")
	if !s.quit {
		t.Error("q does not quit")
	}
}

// TestFailures: a gateway that goes is told, what is shown is not taken for the
// present, and it goes on when the gateway is back.
func TestFailures(t *testing.T) {
	a := &api{list: []map[string]any{tunnelOf("aaa", "alice", 0, 0)}, err: &UnreachableError{errors.New("long"), "connection refused"}}
	s := newScreen(t, a)
	s.shows("cannot reach 127.0.0.1:2019, trying again (since 0s): connection refused", "asking 127.0.0.1:2019")
	a.err = nil
	s.tick(time.Second)
	a.list[0]["bytes_in"] = 1 << 20
	s.tick(time.Second)
	s.shows("alice", "1.0 MiB/s")
	s.hides("cannot reach")
	a.err = &UnreachableError{errors.New("long"), "connection refused"}
	s.tick(time.Second)
	s.tick(7 * time.Second)
	s.shows("cannot reach 127.0.0.1:2019, trying again (since 7s): connection refused", "alice", "in -, out -")
	s.hides("MiB/s")
	a.err = errors.New("the answer is \x1b[31mred")
	s.tick(time.Second)
	s.shows("trying again (since 8s): the answer is ")
	a.err = nil
	a.list[0]["bytes_in"] = 1<<20 + 20<<10
	s.tick(time.Second)
	s.shows("2.0 KiB/s") // over the 10 s that nothing was known of
	s.hides("trying again")
	a.list = []map[string]any{tunnelOf("zzz", "alice", 7, 0)} // Caddy began anew
	s.tick(time.Second)
	s.shows("zzz", "in -, out -")
}

// TestSlowGateway: no request is sent while one is due, a hanging one is told, and
// one that takes long is followed by a rest.
func TestSlowGateway(t *testing.T) {
	a := &api{list: []map[string]any{tunnelOf("aaa", "alice", 0, 0)}}
	s := newScreen(t, a)
	s.hang = true
	s.tick(time.Second)
	for range 5 {
		s.tick(time.Second)
	}
	s.shows("no answer from 127.0.0.1:2019 for 5s", "alice")
	s.hang = false
	s.send(s.m.poll(s.m.asked)().(polled).later(s.at)) // the answer, at last
	s.hides("no answer")
	before := a.seen("GET /tunnels")
	for range 4 {
		s.tick(time.Second)
	}
	if got := a.seen("GET /tunnels"); got != before {
		t.Errorf("asked again %d times within 4 s of an answer that took 5 s", got-before)
	}
	s.tick(2 * time.Second)
	if got := a.seen("GET /tunnels"); got != before+1 {
		t.Errorf("asked %d times after its rest", got-before)
	}
}

// later is the same answer at another time.
func (p polled) later(at time.Time) polled {
	p.at = at
	return p
}

// TestHostileText: nothing that a client chose reaches the terminal as more than
// letters, and none of it moves the columns.
func TestHostileText(t *testing.T) {
	const evil = "\x1b]0;owned\x07\x1b[2J\r\n\u202egnirts\u200b\xff\t漢字"
	a := &api{list: []map[string]any{tunnelOf("aaa", evil, 0, 0), tunnelOf("bbb", "bob", 0, 0)}, details: map[string]string{}}
	a.list[0]["state"], a.list[0]["client_ip"], a.list[0]["endpoint"] = evil, evil, evil
	target, _ := json.Marshal(evil)
	a.details["aaa"] = fmt.Sprintf(`{"stream_list":[{"id":1,"target":%s,"opened":true,"out":{"waits_for":%s,"waits_ms":1}}]}`, target, target)
	s := newScreen(t, a)
	s.press("enter", "k")
	a.err = errors.New(evil)
	s.tick(time.Second)
	own := []string{"\x1b[1m", "\x1b[2m", "\x1b[7m", "\x1b[m"}
	for range 2 {
		for _, l := range s.m.lines() {
			for _, style := range own {
				l = strings.ReplaceAll(l, style, "")
			}
			if i := strings.IndexFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e || r == 0x200b }); i >= 0 {
				t.Errorf("%q at %d of %q", l[i], i, l)
			}
		}
		s.press("n")
	}
	columnOf := func(text string) int { return ansi.StringWidth(strings.SplitN(s.line(text), "0 B", 2)[0]) }
	if columnOf("aaa") != columnOf("bbb") {
		t.Errorf("the columns have moved:\n%s", strings.Join(s.lines(), "\n"))
	}
}

// TestSizes: it fits any terminal, and a change of its size.
func TestSizes(t *testing.T) {
	a := &api{details: map[string]string{"t00": fmt.Sprintf(twoStreams, 0)}}
	for i := range 50 {
		a.list = append(a.list, tunnelOf(fmt.Sprintf("t%02d", i), "漢字漢字漢字漢字漢字漢字漢字", i, 0))
	}
	s := newScreen(t, a)
	s.press("end", "enter")
	for _, keys := range [][]string{nil, {"?"}, {"k", "k"}, {"/"}} {
		s.press(keys...)
		for height := range 40 {
			for _, width := range []int{0, 1, 2, 3, 7, 20, 40, 61, 79, 80, 81, 132, 300} {
				s.send(tea.WindowSizeMsg{Width: width, Height: height})
				lines := s.lines()
				if keys == nil && height > frame+1 && width > 60 && !strings.Contains(strings.Join(lines, "\n"), "t00") {
					t.Fatalf("%dx%d: the cursor is out of view:\n%s", width, height, strings.Join(lines, "\n"))
				}
			}
		}
	}
	s.press("esc")
	s.send(tea.WindowSizeMsg{Width: 80, Height: 24})
	s.shows("IDENTITY", "IN/s", "OUT/s", "STREAMS", footer)
	if columns := s.line("IDENTITY"); strings.Contains(columns, "CLIENT") {
		t.Errorf("80 cells have room for %q", columns)
	}
	s.press("?")
	s.shows("after a question")
	s.press("x")
	s.hides("after a question")
}
