package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
)

// programs are what is run, and a directory for all that a run writes.
type programs struct {
	dir    string
	cli    string // mirrord, beside its daemon and its Delve
	static string // this program: a static Go one
	c      string // c/, built
	python string // work.py
}

// installed are the programs that a user has, copied as an installation does:
// what the linker wrote lies in the page cache by single pages, which cost each
// start, and in larger pieces when it was copied, or read from a disk.
var installed = []string{"mirrord", "mirrord-full", "mirrord-dlv"}

func newPrograms(ctx context.Context) (p *programs, err error) {
	for _, name := range append(installed, "mirrord-agent") {
		if _, err := os.Stat(filepath.Join("bin", name)); err != nil {
			return nil, fmt.Errorf("%w: ./task build makes it", err)
		}
	}
	p = &programs{}
	if p.static, err = os.Executable(); err != nil {
		return nil, err
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "CGO_ENABLED" && s.Value != "0" {
				return nil, errors.New("this program must be a static one: build it with CGO_ENABLED=0, as ./task bench does")
			}
		}
	}
	if p.python, err = filepath.Abs("testdata/bench/work.py"); err != nil {
		return nil, err
	}
	if p.dir, err = os.MkdirTemp("", "mirrord-bench"); err != nil {
		return nil, err
	}
	cp := exec.CommandContext(ctx, "cp", append(installed, p.dir)...)
	cp.Dir = "bin"
	if out, err := cp.CombinedOutput(); err != nil {
		p.remove()
		return nil, fmt.Errorf("installing mirrord with cp: %w\n%s", err, out)
	}
	p.cli = filepath.Join(p.dir, "mirrord")
	p.c = filepath.Join(p.dir, "work")
	sources, err := filepath.Glob("testdata/bench/c/*.c")
	if err == nil {
		args := append([]string{"-O2", "-D_GNU_SOURCE", "-static", "-pthread", "-o", p.c}, sources...)
		var out []byte
		if out, err = exec.CommandContext(ctx, "gcc", args...).CombinedOutput(); err != nil {
			err = fmt.Errorf("building testdata/bench/c with gcc: %w\n%s", err, out)
		}
	}
	if err != nil {
		p.remove()
		return nil, err
	}
	return p, nil
}

func (p *programs) remove() { os.RemoveAll(p.dir) }
