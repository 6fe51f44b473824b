// Package docs_test holds the documents against the code and each other.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

// documents returns the texts of all documents by their path from here.
func documents(t *testing.T) map[string]string {
	t.Helper()
	files := []string{"../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md"}
	for _, pattern := range []string{"*.md", "*/*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	texts := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(text)
	}
	return texts
}

// TestEveryCodeHasCauseAndCure: problem documents lead to these headings.
func TestEveryCodeHasCauseAndCure(t *testing.T) {
	text := documents(t)["troubleshooting.md"]
	documented := map[string]string{}
	for _, section := range strings.Split(text, "\n### ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		documented[name] = body
		if _, ok := framecodec.ParseCode(name); !ok {
			t.Errorf("%s is no code", name)
		}
	}
	for c := framecodec.Code(0); c.Known(); c++ {
		body, ok := documented[c.String()]
		if !ok {
			t.Errorf("%s has no section", c)
			continue
		}
		if c == framecodec.CodeNormal {
			continue
		}
		retry := map[bool]string{true: "yes", false: "no"}[c.Retryable()]
		if !strings.Contains(body, "*Fault: "+c.Fault()+".") {
			t.Errorf("%s: the fault is %s", c, c.Fault())
		}
		if strings.Contains(body, "Retry:") && !strings.Contains(body, "Retry: "+retry+".") {
			t.Errorf("%s: retry is %s", c, retry)
		}
		if said := number(body, `HTTP (\d+)`); said != c.HTTPStatus() {
			t.Errorf("%s: the HTTP status is %d, not %d", c, c.HTTPStatus(), said)
		}
		if said := number(body, `SOCKS (\d+)`); said != int(c.SOCKSReply()) && (said != 0 || c.SOCKSReply() != 1) {
			t.Errorf("%s: the SOCKS reply is %d, not %d", c, c.SOCKSReply(), said)
		}
		if !strings.Contains(body, "**Cause**:") || !strings.Contains(body, "**Cure**:") {
			t.Errorf("%s: no cause or no cure", c)
		}
	}
}

// number is the first one that a pattern finds, 0 if it finds none.
func number(text, pattern string) int {
	if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 0
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	fence    = regexp.MustCompile("(?s)```.*?```")
	unanchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the names that a document's headings have on the web.
func anchors(text string) map[string]bool {
	names := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		names[strings.ReplaceAll(unanchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return names
}

func TestLinksLeadSomewhere(t *testing.T) {
	for file, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			target := file
			if to != "" {
				target = filepath.Join(filepath.Dir(file), to)
			}
			there, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if anchor != "" && !anchors(string(there))[anchor] {
				t.Errorf("%s: %s has no heading #%s", file, target, anchor)
			}
		}
	}
}

// TestMakeTargetsExist: what the documents tell people to type.
func TestMakeTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	typed := regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)")
	for file, text := range documents(t) {
		for _, m := range typed.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(string(makefile), "\n.PHONY: "+m[1]+"\n") {
				t.Errorf("%s: there is no `make %s`", file, m[1])
			}
		}
	}
}
