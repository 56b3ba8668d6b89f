package provision

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// key names what the source makes: a hash of the modules, of the programs that
// are built, of the packages' names and of the architecture.
func (s Source) key() (string, error) {
	files := []string{filepath.Join(s.module(), "go.mod"), filepath.Join(s.module(), "go.sum")}
	for _, program := range []string{"kube", "pause"} {
		sources, err := filepath.Glob(filepath.Join(s.module(), program, "*.go"))
		if err != nil {
			return "", fmt.Errorf("listing the sources of %s: %w", program, err)
		}
		slices.Sort(sources)
		files = append(files, sources...)
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOARCH, linkerFlags, strings.Join(packages, " "))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", fmt.Errorf("reading what the cluster is built from: %w", err)
		}
		fmt.Fprintf(h, "%s %d\n%s", filepath.Base(f), len(b), b)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}
