package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// repository makes a small module with a test in a folder of its own and goes
// there.
func repository(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"go.mod":     "module example.org/small\n\ngo 1.26.0\n",
		"sum/sum.go": "package sum\n\nfunc Add(a, b int) int {\n\treturn a + b\n}\n",
		"sum/sum_test.go": "package sum\n\nimport \"testing\"\n\nfunc TestAdd(t *testing.T) {\n" +
			"\tif Add(2, 2) != 4 {\n\t\tt.Error(\"wrong, seed 7\")\n\t}\n}\n\n" +
			"func TestModel(t *testing.T) {\n\tif Add(2, 2) != 4 {\n\t\tt.Error(\"wrong\")\n\t}\n}\n",
	} {
		write(t, name, text)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// patch returns a mutant that returns expression instead of the sum.
func patch(from, to string) string {
	return "Bug: another result\nTest: ./sum -run TestAdd\n\n--- a/sum/sum.go\n+++ b/sum/sum.go\n@@ -3,3 +3,3 @@\n" +
		" func Add(a, b int) int {\n-\treturn " + from + "\n+\treturn " + to + "\n }\n"
}

func TestMutants(t *testing.T) {
	for _, test := range []struct {
		name, patch, want string // want is part of the error, empty: found
	}{
		{"found", patch("a + b", "a - b"), ""},
		{"found by hanging", patch("a + b", "func() int { for { } }()"), ""},
		{"found by the model without a seed", strings.ReplaceAll(patch("a + b", "a - b"), "-run TestAdd", "-run TestModel"), "without a seed"},
		{"not found", patch("a + b", "a * b"), "not found by the tests: bug"},
		{"does not apply", patch("b + a", "a - b"), "does not apply"},
		{"does not compile", patch("a + b", "a + c"), "does not compile"},
		{"without a header", "--- a/sum/sum.go\n+++ b/sum/sum.go\n", "needs a line"},
	} {
		t.Run(test.name, func(t *testing.T) {
			repository(t)
			write(t, "bugs/bug.patch", test.patch)
			err := run(t.Context(), 5*time.Second, "", []string{"bugs"})
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if text, err := os.ReadFile("sum/sum.go"); err != nil || !strings.Contains(string(text), "return a + b") {
				t.Errorf("the source was touched: %s %v", text, err)
			}
		})
	}
	t.Run("no patch", func(t *testing.T) {
		repository(t)
		if err := run(t.Context(), time.Second, "", []string{"bugs"}); err == nil {
			t.Error("nothing to do is not a success")
		}
	})
}

// What the model test finds must be told with the seed, even when it hangs, and
// hanging is told apart.
func TestFinds(t *testing.T) {
	const seed = "TestModel: dialect 2 with CULVERT_SEED=9 CULVERT_MODEL_WORLDS=1\n"
	const hang = "panic: test timed out after 1m0s\n\trunning tests:\n\t\tTestModel (1m0s)\n\t\tTestModel/dialect2/9 (40s)\n\ngoroutine 7 [running]:\n"
	for _, test := range []struct {
		name, out string
		weak, bad bool
	}{
		{"model", seed + "--- FAIL: TestModel (0.1s)\n", false, false},
		{"model without a seed", "--- FAIL: TestModel (0.1s)\n", false, true},
		{"model hangs", seed + hang, true, false},
		{"model hangs without a seed", hang, true, true},
		{"another one", "--- FAIL: TestEnds (0.1s)\n", false, false},
		{"another one hangs behind the model", seed + strings.ReplaceAll(hang, "TestModel", "TestEnds"), true, false},
		{"panic", seed + "panic: index out of range\n\ngoroutine 7 [running]:\nx.TestModel.func1()\n", false, false},
		{"panic without a seed", "panic: index out of range\n\ngoroutine 7 [running]:\nx.runWorld()\nx.TestModel.func1()\n", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			weak, err := judge(test.out)
			if weak != test.weak || (err != nil) != test.bad {
				t.Errorf("weak %v, error %v", weak, err)
			}
		})
	}
}

func TestTellingLines(t *testing.T) {
	got := telling("=== RUN x\n--- FAIL: TestModel (0.1s)\n    model_test.go:3: lost 4 bytes, seed 99\nok\n")
	if len(got) != 2 || !strings.Contains(got[1], "seed 99") {
		t.Errorf("got %q", got)
	}
	got = telling(strings.Repeat("TestModel: dialect 1 with CULVERT_SEED=1 CULVERT_MODEL_WORLDS=1\n", 9) +
		"TestModel: dialect 2 with CULVERT_SEED=9 CULVERT_MODEL_WORLDS=1\npanic: test timed out after 1m0s\n")
	if len(got) != 2 || !strings.Contains(got[0], "SEED=9") {
		t.Errorf("of the worlds only the last one counts, got %q", got)
	}
}
