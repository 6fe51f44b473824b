package culvert

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/culvertgate/culvert/tunnel/client"
)

// console is where a command talks to people: standard error, since standard
// output belongs to data. It is safe for concurrent use.
type console struct {
	out      io.Writer
	terminal bool
	width    func() int // of the terminal in cells, now; 0: not known

	mu      sync.Mutex
	pending bool // a progress line stands there; guarded by mu
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

func newConsole(cmd *cobra.Command) *console {
	out := cmd.ErrOrStderr()
	if !isTerminal(out) {
		return &console{out: out}
	}
	file := out.(*os.File)
	return &console{out: out, terminal: true, width: func() int {
		width, _, err := term.GetSize(int(file.Fd()))
		if err != nil {
			return 0
		}
		return width
	}}
}

// say writes a line.
func (c *console) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearLocked()
	fmt.Fprintln(c.out, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

// progress shows a line that the next one replaces, on a terminal only.
func (c *console) progress(text string) {
	if !c.terminal {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearLocked()
	fmt.Fprint(c.out, text)
	c.pending = true
}

// clear removes a progress line.
func (c *console) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearLocked()
}

func (c *console) clearLocked() {
	if c.pending {
		fmt.Fprint(c.out, "\r\x1b[K")
		c.pending = false
	}
}

// Write is for a logger.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearLocked()
	return c.out.Write(p)
}

func (c *console) logger() *zap.Logger {
	encoder := zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(c), zapcore.DebugLevel))
}

// showProgress names the step that an attempt is at.
func (c *console) showProgress(p client.Progress) {
	if p.Done {
		c.clear()
		return
	}
	if !c.terminal {
		return
	}
	c.progress(fit(p.URL, p.Step.Describe()+" ...", c.width()))
}

// leastURL is the fewest cells of a URL that say anything.
const leastURL = 16

// fit makes a line for a terminal of that many cells, the last one left free: a
// line that wraps could not be removed. The URL is cut first, then the step.
func fit(url, step string, width int) string {
	width--
	whole := url + ": " + step
	switch room := width - cells(step) - len(": "); {
	case width < 0 || cells(whole) <= width:
		return whole
	case room >= leastURL:
		return cut(url, room) + ": " + step
	default:
		return cut(step, width)
	}
}

// cut shortens a text to at most that many cells.
func cut(text string, width int) string {
	const mark = "..."
	if cells(text) <= width {
		return text
	}
	used := len(mark)
	for i, r := range text {
		if used += cells(string(r)); used > width {
			return text[:i] + mark[:max(min(len(mark), width), 0)]
		}
	}
	return text
}

// cells bounds what a text takes on a terminal: letters beyond ASCII may be wide.
func cells(text string) int {
	n := 0
	for _, r := range text {
		if n++; r > unicode.MaxASCII {
			n++
		}
	}
	return n
}
