package layertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Witness is the debuggee of testdata/apps/witness in one language.
type Witness struct {
	Language string
	Listens  bool
	needs    []string // tools that build or run it
	build    func(b builder) (command []string)
}

// Witnesses are all there are.
var Witnesses = []Witness{
	{"C", true, []string{"cc"}, func(b builder) []string { return b.c("cc") }},
	{"C, static with musl", true, []string{"musl-gcc"}, func(b builder) []string { return b.c("musl-gcc", "-static") }},
	{"Rust, static", true, []string{"rustc"}, builder.rust},
	{"Go with cgo", true, []string{"go", "cc"}, func(b builder) []string {
		return b.golang("CGO_ENABLED=1", "-tags=netcgo")
	}},
	{"Go, a stripped PIE", true, []string{"go"}, func(b builder) []string {
		return b.golang("CGO_ENABLED=0", "-buildmode=pie", "-ldflags=-s -w")
	}},
	{"Java", true, []string{"javac", "java"}, func(b builder) []string {
		b.run("javac", "-d", b.dir, b.source("Witness.java"))
		return []string{"java", "-cp", b.dir, "Witness"}
	}},
	{"bash and curl", false, []string{"bash", "curl", "getent"}, func(b builder) []string {
		return []string{"bash", b.source("witness.sh")}
	}},
}

// Build returns the command that is the witness, to which a port and a service
// are added. Without its tools the test is skipped.
func (w Witness) Build(t testing.TB) []string {
	t.Helper()
	for _, tool := range w.needs {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return w.build(builder{t, strings.TrimSpace(string(root)), t.TempDir()})
}

type builder struct {
	t         testing.TB
	root, dir string
}

func (b builder) source(name string) string {
	return filepath.Join(b.root, "testdata", "apps", "witness", name)
}

func (b builder) program() string { return filepath.Join(b.dir, "witness") }

func (b builder) run(command ...string) {
	b.t.Helper()
	b.runWith(nil, command...)
}

func (b builder) runWith(env []string, command ...string) {
	b.t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = b.root, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%q: %v\n%s", command, err, out)
	}
}

func (b builder) c(compiler string, flags ...string) []string {
	b.run(append([]string{compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", b.program(), b.source("witness.c")}, flags...)...)
	return []string{b.program()}
}

func (b builder) golang(env string, flags ...string) []string {
	b.runWith([]string{env}, append(append([]string{"go", "build", "-o", b.program()}, flags...), "./testdata/apps/witness")...)
	return []string{b.program()}
}

// rust links with musl where its library is, else with the C library of this machine.
func (b builder) rust() []string {
	sysroot, err := exec.Command("rustc", "--print", "sysroot").Output()
	if err != nil {
		b.t.Fatal(err)
	}
	const musl = "x86_64-unknown-linux-musl"
	flags := []string{"-C", "target-feature=+crt-static"}
	if _, err := os.Stat(filepath.Join(strings.TrimSpace(string(sysroot)), "lib", "rustlib", musl)); err == nil {
		flags = append(flags, "--target", musl)
	} else {
		b.t.Log("linked with the C library of this machine: Rust's for musl is missing")
	}
	b.run(append([]string{"rustc", "-O", "-o", b.program(), b.source("witness.rs")}, flags...)...)
	return []string{b.program()}
}
