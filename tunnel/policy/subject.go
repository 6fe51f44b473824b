package policy

import (
	"fmt"
	"slices"
)

// Subject is who asks: one identity at one endpoint.
type Subject struct {
	Endpoint  string   // name of the endpoint
	Identity  string   // as Caddy's authentication gave it; empty for an anonymous one
	Groups    []string // likewise
	Ticket    string   // the one target that a ticket is for: all that may be opened; empty: no ticket
	Anonymous bool     // nobody was authenticated: rules that name users or groups never match
}

// audience is whom a rule or target is for: everybody when it is empty.
type audience struct {
	users, groups []string
}

func newAudience(users, groups []string) (audience, error) {
	if slices.Contains(users, "") || slices.Contains(groups, "") {
		return audience{}, fmt.Errorf("a user or group name is empty: a placeholder without a value? An empty name would match nobody or everybody")
	}
	return audience{slices.Clone(users), slices.Clone(groups)}, nil
}

// empty: nobody was named, which means everybody.
func (a audience) empty() bool { return len(a.users) == 0 && len(a.groups) == 0 }

func (a audience) admits(s Subject) bool {
	if a.empty() {
		return true
	}
	if s.Anonymous || s.Identity == "" {
		return false
	}
	if slices.Contains(a.users, s.Identity) {
		return true
	}
	return slices.ContainsFunc(s.Groups, func(g string) bool { return slices.Contains(a.groups, g) })
}
