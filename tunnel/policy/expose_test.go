package policy

import (
	"strings"
	"testing"

	"github.com/culvertgate/culvert/framecodec"
)

func TestExposeRules(t *testing.T) {
	p, err := New(Config{Endpoint: "gw", Expose: []ExposeRule{
		{Names: []string{"sshd"}, Users: []string{"bob"}, ReachableBy: []string{"alice"}, Position: "Caddyfile:7"},
		{Names: []string{"web", "api"}, Groups: []string{"devs"}, ReachableByGroups: []string{"ops"}},
		{Names: []string{"*"}, Users: []string{"root"}},
		{Names: []string{"sshd"}, Users: []string{"bob"}, ReachableBy: []string{"carol"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	who := func(identity string, groups ...string) Subject {
		return Subject{Endpoint: "gw", Identity: identity, Groups: groups, Anonymous: identity == ""}
	}
	bob, root, dev := who("bob"), who("root"), who("dora", "devs")
	for name, test := range map[string]struct {
		owner Subject
		name  string
		rule  string // empty: denied
	}{
		"bob's sshd":             {bob, "sshd", "expose.rules[0]"},
		"bob's web":              {bob, "web", ""},
		"a developer's web":      {dev, "web", "expose.rules[1]"},
		"a developer's api":      {dev, "api", "expose.rules[1]"},
		"a developer's sshd":     {dev, "sshd", ""},
		"everything of root's":   {root, "sshd", "expose.rules[2]"},
		"nobody's":               {who(""), "sshd", ""},
		"nobody's of the group":  {Subject{Groups: []string{"devs"}, Anonymous: true}, "web", ""},
		"an identity like bob's": {who("Bob"), "sshd", ""},
	} {
		d := p.MayExpose(test.owner, test.name)
		if d.Allowed != (test.rule != "") || d.Allowed && d.Rule.String() != test.rule || !d.Allowed && (d.Code != framecodec.CodeNotAllowed || d.Rule.String() != "expose") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	for name, test := range map[string]struct {
		subject, owner Subject
		name           string
		allowed        bool
		rule           string
	}{
		"alice to bob's sshd":                     {who("alice"), bob, "sshd", true, "expose.rules[0]"},
		"carol by the later rule":                 {who("carol"), bob, "sshd", true, "expose.rules[3]"},
		"mallory to bob's sshd":                   {who("mallory"), bob, "sshd", false, "expose.rules[0]"},
		"bob to his own":                          {bob, bob, "sshd", false, "expose.rules[0]"},
		"nobody":                                  {who(""), bob, "sshd", false, "expose.rules[0]"},
		"alice to another's of that name":         {who("alice"), root, "sshd", false, "expose.rules[2]"},
		"a group":                                 {who("olga", "ops"), dev, "web", true, "expose.rules[1]"},
		"the owner's group":                       {dev, dev, "web", false, "expose.rules[1]"},
		"no rule for it":                          {who("alice"), bob, "web", false, "expose"},
		"an owner whose groups nobody knows":      {who("olga", "ops"), who("dora"), "web", false, "expose"},
		"a rule without reachable_by is for none": {who("alice", "ops", "devs"), root, "db", false, "expose.rules[2]"},
	} {
		d := p.MayReach(test.subject, test.owner, test.name)
		if d.Allowed != test.allowed || d.Rule.String() != test.rule || !d.Allowed && d.Code != framecodec.CodeNotAllowed {
			t.Errorf("%s: %+v", name, d)
		}
		if e := Explained(d); e.Allowed != d.Allowed || e.Rule != d.Rule || e.CodeName != d.Code.String() || e.Addresses == nil {
			t.Errorf("%s is explained by %+v", name, e)
		}
	}
	if d := p.MayReach(who("mallory"), bob, "sshd"); d.Rule.Position != "Caddyfile:7" || d.Rule.Text != "allow sshd" {
		t.Errorf("the rule is shown as %+v", d.Rule)
	}
}

func TestExposeRulesThatCannotBe(t *testing.T) {
	for text, rule := range map[string]ExposeRule{
		"names no service":      {},
		"stands alone":          {Names: []string{"*", "web"}},
		"cannot name a service": {Names: []string{"Web"}},
		"name is empty":         {Names: []string{"web"}, Users: []string{""}},
		"group name is empty":   {Names: []string{"web"}, ReachableByGroups: []string{""}},
	} {
		_, err := New(Config{Expose: []ExposeRule{{Names: []string{"fine"}}, rule}})
		if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "expose.rules[1]") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
