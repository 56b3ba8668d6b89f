package mirrord_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A rule holds for the packages below from: of the imports below banned it
// allows only those below but.
type rule struct {
	from, banned string
	but          []string
	why          string
}

var rules = []rule{
	{"protocol", "mirrord", []string{"mirrord/protocol"}, "protocol imports nothing of ours"},
	{"layer", "mirrord", []string{"mirrord/layer", "mirrord/protocol"}, "layer imports protocol only"},
	{"agent", "mirrord", []string{"mirrord/agent", "mirrord/protocol"}, "agent imports protocol only"},
	{"daemon", "mirrord/agent", nil, "daemon and agent never import each other"},
}

// Only one folder may import these.
var owners = map[string]string{
	"k8s.io":                         "daemon/cluster",
	"sigs.k8s.io":                    "daemon/cluster",
	"github.com/go-delve/delve":      "daemon/debug",
	"github.com/cilium/ebpf":         "agent",
	"github.com/google/nftables":     "agent",
	"github.com/vishvananda/netlink": "agent",
	"github.com/vishvananda/netns":   "agent",
	"github.com/mdlayher/netlink":    "agent",
	"github.com/hanwen/go-fuse/v2":   "daemon/files",
	"github.com/spf13/cobra":         "daemon", // our command line's, and Delve's
}

var bannedNames = []string{"internal", "cmd", "util", "utils", "common", "helpers", "types"}

// The import rules of the tour (doc.go), and one package comment in exactly one
// file of each package.
func TestImports(t *testing.T) {
	for dir, files := range packages(t) {
		if slices.Contains(bannedNames, path.Base(dir)) {
			t.Errorf("%s: no package of ours is called so", dir)
		}
		comments := 0
		for name, file := range files {
			if file.Doc != nil && !strings.HasSuffix(name, "_test.go") {
				comments++
			}
			for _, spec := range file.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				checkImport(t, dir, name, imported)
			}
		}
		if n := len(files); comments != 1 && n > testFiles(files) {
			t.Errorf("%s: %d files have a package comment, not one", dir, comments)
		}
	}
}

func checkImport(t *testing.T, dir, name, imported string) {
	t.Helper()
	for _, r := range rules {
		if below(dir, r.from) && below(imported, r.banned) &&
			!slices.ContainsFunc(r.but, func(p string) bool { return below(imported, p) }) {
			t.Errorf("%s imports %s: %s", name, imported, r.why)
		}
	}
	for what, owner := range owners {
		if below(imported, what) && !below(dir, owner) && !below(dir, "testdata") {
			t.Errorf("%s imports %s: only %s may", name, imported, owner)
		}
	}
}

func below(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

func testFiles(files map[string]*ast.File) (n int) {
	for name := range files {
		if strings.HasSuffix(name, "_test.go") {
			n++
		}
	}
	return n
}

// packages parses the files of this module by folder, up to their imports.
func packages(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	dirs := map[string]map[string]*ast.File{}
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if name != "." && (strings.HasPrefix(base, ".") || base == "node_modules" || base == "bin" || base == "extensions") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(set, name, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		if dirs[dir] == nil {
			dirs[dir] = map[string]*ast.File{}
		}
		dirs[dir][name] = file
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}
