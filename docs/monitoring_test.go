package docs_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"go.yaml.in/yaml/v3"
)

// The board and the rules ask for metrics and labels that there are, in queries that
// a parser of Prometheus's language reads.

// gridPos is where a panel stands: Grafana's grid is 24 wide.
type gridPos struct{ X, Y, W, H int }

type panel struct {
	ID         int
	Title      string
	GridPos    gridPos `json:"gridPos"`
	Datasource struct{ UID string }
	Targets    []struct {
		RefID string `json:"refId"`
		Expr  string
	}
}

func TestGrafanaBoard(t *testing.T) {
	raw, err := os.ReadFile("monitoring/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title      string
		Templating struct{ List []struct{ Name string } }
		Panels     []panel
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	variables := []string{}
	for _, v := range board.Templating.List {
		variables = append(variables, v.Name)
	}
	if !slices.Equal(variables, []string{"datasource", "job", "instance"}) || board.Title == "" || len(board.Panels) < 10 {
		t.Errorf("%q has the variables %q and %d panels", board.Title, variables, len(board.Panels))
	}
	asked := map[string]bool{}
	for i, p := range board.Panels {
		if p.Title == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q has no title, query or data source of the reader's choice", p.ID, p.Title)
		}
		for _, other := range board.Panels[:i] {
			a, b := p.GridPos, other.GridPos
			if p.ID == other.ID || a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q are one, or lie on each other", p.Title, other.Title)
			}
		}
		if p.GridPos.X < 0 || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H < 1 {
			t.Errorf("panel %q stands at %+v", p.Title, p.GridPos)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] {
				t.Errorf("panel %q has two queries %s", p.Title, q.RefID)
			}
			refs[q.RefID] = true
			checkQuery(t, p.Title, q.Expr, asked)
		}
	}
	for name := range knownMetrics(t) {
		if !asked[name] {
			t.Errorf("the board does not show %s", name)
		}
	}
}

func TestAlertRules(t *testing.T) {
	raw, err := os.ReadFile("monitoring/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(raw)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] || !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %q lacks a name of its own, a severity, a summary or a description", r.Alert)
			}
			seen[r.Alert] = true
			checkQuery(t, r.Alert, r.Expr, map[string]bool{})
		}
	}
	if len(seen) < 8 {
		t.Errorf("%d alerts", len(seen))
	}
}

// knownMetrics are the metrics of the source, with their labels.
func knownMetrics(t *testing.T) map[string][]string {
	t.Helper()
	known := map[string][]string{}
	for text := range metricsOfTheSource(t) {
		name, labels, _ := strings.Cut(strings.TrimSuffix(text, "}"), "{")
		known[name] = strings.FieldsFunc(labels, func(r rune) bool { return r == ',' })
	}
	return known
}

// checkQuery parses a query and holds its metrics and labels against the source.
func checkQuery(t *testing.T, where, query string, asked map[string]bool) {
	t.Helper()
	// Grafana's own variable stands for a time.
	expr, err := metricsql.Parse(strings.ReplaceAll(query, "$__rate_interval", "1m"))
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, query)
		return
	}
	labels := map[string]bool{"job": true, "instance": true}
	known := knownMetrics(t)
	metricsql.VisitAll(expr, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		for _, group := range m.LabelFilterss {
			name, ours := strings.CutPrefix(group[0].Value, "caddy_webrtc_tunnel_")
			base, bucket := strings.CutSuffix(name, "_bucket")
			have, exists := known[base]
			if group[0].Label != "__name__" || !ours || !exists {
				t.Errorf("%s: there is no metric %q", where, group[0].Value)
				return
			}
			asked[base] = true
			if bucket {
				labels["le"] = true
			}
			for _, l := range have {
				labels[l] = true
			}
			for _, f := range group[1:] {
				if f.Label != "job" && f.Label != "instance" && !slices.Contains(have, f.Label) {
					t.Errorf("%s: %s has no label %q", where, name, f.Label)
				}
			}
		}
	})
	metricsql.VisitAll(expr, func(e metricsql.Expr) {
		if a, ok := e.(*metricsql.AggrFuncExpr); ok {
			for _, by := range a.Modifier.Args {
				if !labels[by] {
					t.Errorf("%s: by %q, of %q", where, by, slices.Sorted(maps.Keys(labels)))
				}
			}
		}
	})
}
