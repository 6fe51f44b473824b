package acceptance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/culvertgate/culvert/internal/testkit"
)

// TestMustShow2AdminCommands runs list and kill against both ends of a tunnel.
func TestMustShow2AdminCommands(t *testing.T) {
	p := startPair(t, setup{})
	g := startTarget(t, p.net)
	for _, side := range []struct {
		name  string
		caddy *testkit.Caddy
		words []string // besides the id
	}{
		{"gateway", p.gateway, []string{"gateway", "gw", "alice", "127.0.0.1", "open"}},
		{"client", p.client, []string{"client", "gw", "open"}},
	} {
		t.Run(side.name, func(t *testing.T) {
			s := p.mustOpen(g, entryPort)
			check(t, s.echo())
			address := strings.TrimPrefix(side.caddy.AdminURL, "http://")
			id := onlyTunnel(t, side.caddy).ID
			p.shows(t, address, id, side.words)
			p.refusesWrongIDs(t, address, id)
			check(t, s.echo())

			out, problems, code := p.run("kill", id, "--address", address)
			if code != 0 || out != "" || problems != "ended "+id+"\n" {
				t.Errorf("kill: exit code %d, %q, %q", code, out, problems)
			}
			if got := seen(s.near, patience); got != sawRST {
				t.Errorf("the opener saw %s, want %s", got, sawRST)
			}
			testkit.Eventually(t, patience, func() error {
				out, problems, code := p.run("list", "--address", address)
				if code != 0 || strings.Contains(out, id) {
					return fmt.Errorf("list: exit code %d, %s%s", code, out, problems)
				}
				return nil
			})
			if _, problems, code := p.run("kill", id, "--address", address); code == 0 || !strings.Contains(problems, id) {
				t.Errorf("killing it again: exit code %d, %s", code, problems)
			}
		})
	}
	_, problems, code := p.run("list", "--address", loopback(1).String())
	if code == 0 || !strings.Contains(problems, "127.0.0.1:1") || !strings.Contains(problems, "does Caddy run here") {
		t.Errorf("list without a Caddy: exit code %d, %s", code, problems)
	}
}

// shows holds that list has one line, that of the tunnel.
func (p *pair) shows(t *testing.T, address, id string, words []string) {
	t.Helper()
	out, problems, code := p.run("list", "--address", address)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || problems != "" || len(lines) != 2 {
		t.Fatalf("list: exit code %d, %s%s", code, out, problems)
	}
	fields := strings.Fields(lines[1])
	if fields[0] != id {
		t.Errorf("list shows %q, the admin API %q", fields[0], id)
	}
	for _, word := range words {
		if !strings.Contains(lines[1], " "+word+" ") {
			t.Errorf("%s is not in the line %q", word, lines[1])
		}
	}
	out, _, code = p.run("list", "--json", "--address", address)
	if code != 0 || !strings.Contains(out, fmt.Sprintf("%q:%q", "id", id)) || !strings.Contains(out, `"streams":1`) {
		t.Errorf("list --json: exit code %d, %s", code, out)
	}
}

// refusesWrongIDs holds that kill says which id is wrong, and ends nothing.
func (p *pair) refusesWrongIDs(t *testing.T, address, id string) {
	t.Helper()
	for _, wrong := range []string{"nosuchtunnel", id[:len(id)-1], "../tunnels/" + id, "%2e"} {
		out, problems, code := p.run("kill", wrong, "--address", address)
		if code != 1 || out != "" || !strings.Contains(problems, "tunnel "+wrong+": ") || strings.Contains(problems, "HTTP") {
			t.Errorf("kill %s: exit code %d, %q, %q", wrong, code, out, problems)
		}
	}
	if _, problems, code := p.run("kill", "--address", address); code != 1 || !strings.Contains(problems, "at least 1 arg") {
		t.Errorf("kill without an id: exit code %d, %q", code, problems)
	}
}

// TestMustShow2Targets runs targets, which needs no tunnel.
func TestMustShow2Targets(t *testing.T) {
	p := startLoneGateway(t, setup{endpoint: `
		target web tcp/127.0.0.1:9000 {
			title "The web"
		}
		target ops tcp/127.0.0.1:9001 {
			users bob
		}
		dynamic {
			allow tcp/127.0.0.1:9000
		}
`})
	flags := p.toGateway(tapPort)
	out, problems, code := p.run(append([]string{"targets"}, flags...)...)
	if code != 0 || problems != "" || !strings.Contains(out, "NAME") || !strings.Contains(out, "The web") || !strings.Contains(out, "tcp/host:port") {
		t.Errorf("exit code %d, %s%s", code, out, problems)
	}
	if strings.Contains(out, "ops") {
		t.Errorf("alice is shown a target of bob's:\n%s", out)
	}
	out, _, code = p.run(append([]string{"targets", "--json"}, flags...)...)
	if code != 0 || !strings.Contains(out, `"name":"web"`) {
		t.Errorf("--json: exit code %d, %s", code, out)
	}
	out, problems, code = p.run("targets", flags[0], flags[1])
	if code != 1 || out != "" || !strings.Contains(problems, "unauthenticated") {
		t.Errorf("without a token: exit code %d, %q, %q", code, out, problems)
	}
	out, problems, code = p.run("targets", flags[0], strings.Replace(flags[1], "/tunnel", "/tunnels", 1), flags[2], flags[3])
	if code != 1 || out != "" || problems == "" {
		t.Errorf("with a wrong path: exit code %d, %q, %q", code, out, problems)
	}
	if list := tunnelsOf(t, p.gateway); len(list) > 0 {
		t.Errorf("targets has made tunnels: %+v", list)
	}
}
