package seccomp

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The whole table, of this machine's architecture and the other, against the
// numbers that x/sys has from the kernel's headers.
func TestNumbers(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]Arch{"amd64": AMD64, "arm64": ARM64} {
		known := numbersIn(t, filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+name+".go"))
		for c := Call(1); c < numCalls; c++ {
			want, has := known["SYS_"+strings.ToUpper(c.String())]
			if got, ok := a.Number(c); ok != has || ok && got != want {
				t.Errorf("%s: %v is %d, %v; want %d, %v", name, c, got, ok, want, has)
			}
		}
	}
}

// numbersIn reads the constants of a Go file.
func numbersIn(t *testing.T, path string) map[string]int {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]int{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Names) != 1 || len(v.Values) != 1 {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok {
			if number, err := strconv.Atoi(lit.Value); err == nil {
				known[v.Names[0].Name] = number
			}
		}
		return true
	})
	if len(known) < 300 {
		t.Fatalf("%s has %d numbers", path, len(known))
	}
	return known
}
