package launch

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What is this machine's works under the layer as without it: Go's own tests of
// files and processes come to the same results.
func TestGoStandardLibrary(t *testing.T) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{"os", "io/fs", "path/filepath", "os/exec"} {
		t.Run(pkg, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "test")
			if out, err := exec.Command("go", "test", "-c", "-o", program, pkg).CombinedOutput(); err != nil {
				t.Fatalf("building the tests: %v\n%s", err, out)
			}
			sameResults(t, filepath.Join(strings.TrimSpace(string(root)), "src", pkg), goResult, program, "-test.v", "-test.short")
		})
	}
}

// So do Python's.
func TestPythonStandardLibrary(t *testing.T) {
	for _, module := range []string{"test_os", "test_posix"} {
		t.Run(module, func(t *testing.T) {
			if out, err := exec.Command("python3", "-c", "import test."+module).CombinedOutput(); err != nil {
				t.Skipf("needs Python's own tests (libpython3-testsuite): %s", out)
			}
			sameResults(t, t.TempDir(), pythonResult, "sh", "-c", "python3 -m test -v "+module+" 2>&1; true")
		})
	}
}

var (
	goResult = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+)`)
	// On a busy machine asyncio may complain before a result.
	pythonResult = regexp.MustCompile(`(?m)^(test_\w+) \((\S+)\).*?\.\.\. (?:Executing .*\n)?(ok|FAIL|ERROR|skipped|expected failure)`)
)

// sameResults runs tests without and with the layer; each result that differs is shown.
func sameResults(t *testing.T, dir string, result *regexp.Regexp, argv ...string) {
	t.Helper()
	w := newWorld(t)
	w.dir, w.policy.FSMode = dir, "local"
	plain := exec.Command("/bin/sh", append([]string{"-c", `exec "$@"`, "sh"}, argv...)...) // as world.run does
	plain.Dir, plain.Env = dir, append(os.Environ(), "NODE_EXTRA_CA_CERTS=")
	out, _ := plain.Output() // some tests may fail here
	want := results(result, string(out))
	r := w.run(t, argv...)
	got := results(result, r.out)
	if len(want) < 10 {
		t.Fatalf("without the layer there are %d results: %s", len(want), out)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: %q with the layer, %q without\n%s", name, got[name], want[name], around(r.out, name))
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s: %q with the layer, and not there without", name, got[name])
		}
	}
}

// results are what the groups say that are not the last or, of Go's, the first.
func results(result *regexp.Regexp, out string) map[string]string {
	all := map[string]string{}
	for _, m := range result.FindAllStringSubmatch(out, -1) {
		if result == goResult {
			all[m[2]] = m[1]
		} else {
			all[m[2]] = m[3]
		}
	}
	return all
}

// around is what was said of a test.
func around(out, name string) string {
	var lines []string
	all := strings.Split(out, "\n")
	for i, line := range all {
		if strings.Contains(line, name) {
			lines = append(lines, all[i:min(i+6, len(all))]...)
		}
	}
	return strings.Join(lines, "\n")
}
