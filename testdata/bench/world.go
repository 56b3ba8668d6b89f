package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	smallFiles = 10_000
	warmFiles  = 500
	smallSize  = 2048
	bigSize    = 100 << 20

	hereAddr     = "10.99.0.1"
	thereAddr    = "10.99.0.2"
	nobodyAddr   = "10.99.0.3"
	agentAddr    = thereAddr + ":7777"
	plainPort    = "8000" // the first of a server's ports: HTTP, echo, bulk
	stolenPort   = "8100"
	mirroredPort = "8500"
	relayPort    = "8200"
	loopback     = "127.0.0.1"
	transferred  = "300000000" // bytes
)

// A world is what the rows by --agent are measured in: the two sides, with
// servers on both and the agent on the other.
type world struct {
	*programs
	dir         string // the daemon's runtime directory
	config      string // of mirrord
	files       string // which the configuration makes Remote; below are:
	cold, warm  string // directories of small files, the first of ever new ones
	big, pages  string // the second: the same in memory
	written     string // which may be written
	tree        string // directories of small files, ever new ones
	renewed     int
	here, there *side
	ends        []func()
}

// newWorld names what begin makes.
func newWorld(p *programs, name string) *world {
	dir := filepath.Join(p.dir, name)
	return &world{
		programs: p, dir: dir, config: filepath.Join(dir, "mirrord.json"),
		files: filepath.Join(dir, "files"), cold: filepath.Join(dir, "files", "cold"),
		warm: filepath.Join(dir, "files", "warm"), big: filepath.Join(dir, "files", "big"),
		tree: filepath.Join(dir, "files", "tree"), written: filepath.Join(dir, "written"),
		pages: fmt.Sprintf("/dev/shm/mirrord-bench-%d", os.Getpid()),
	}
}

func (w *world) begin(ctx context.Context) (err error) {
	if err := errors.Join(os.MkdirAll(w.cold, 0o755), os.MkdirAll(w.warm, 0o755)); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{"feature": map[string]any{"fs": map[string]any{
		"mode": "read", "read_only": []string{"^" + w.files + "/"}, "read_write": []string{"^" + w.written + "$"},
	}}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.config, config, 0o600); err != nil {
		return err
	}
	if w.here, err = newSide(hereAddr, 0, "XDG_RUNTIME_DIR="+w.dir); err != nil {
		return err
	}
	if w.there, err = newSide(thereAddr, 1); err != nil {
		return err
	}
	if err := w.join(ctx); err != nil {
		return err
	}
	for _, s := range []*side{w.here, w.there} {
		if err := w.keep(s, s.command(ctx, w.c, "serve", s.addr, plainPort), "ready"); err != nil {
			return err
		}
	}
	return w.keep(w.there, w.there.command(ctx, "bin/mirrord-agent", "--listen", agentAddr), "listening")
}

// keep runs a command until the world's end.
func (w *world) keep(s *side, cmd *exec.Cmd, word string) error {
	stop, err := s.background(cmd, word)
	if err == nil {
		w.ends = append(w.ends, stop)
	}
	return err
}

// join connects the sides by a veth pair.
func (w *world) join(ctx context.Context) error {
	for _, do := range []struct {
		side    *side
		command string
	}{
		{w.here, "link set lo up"},
		{w.here, fmt.Sprintf("link add veth type veth peer name veth netns /proc/%d/fd/%d", os.Getpid(), w.there.ns.Fd())},
		{w.here, "addr add " + hereAddr + "/24 dev veth"},
		{w.here, "link set veth up"},
		{w.there, "link set lo up"},
		{w.there, "addr add " + thereAddr + "/24 dev veth"},
		{w.there, "link set veth up"},
	} {
		if _, err := do.side.output(do.side.command(ctx, "ip", strings.Fields(do.command)...)); err != nil {
			return err
		}
	}
	return nil
}

// end ends all that the world started, and says what it could not.
func (w *world) end() error {
	var err error
	for len(w.ends) > 0 {
		w.ends[len(w.ends)-1]()
		w.ends = w.ends[:len(w.ends)-1]
	}
	if w.here != nil {
		stop := w.here.command(context.Background(), w.cli, "daemon", "stop", "--force")
		_, err = w.here.output(stop)
	}
	for _, s := range []*side{w.here, w.there} {
		if s != nil {
			err = errors.Join(err, s.end())
		}
	}
	os.RemoveAll(w.dir)
	os.Remove(w.pages)
	return err
}

func (w *world) pin(pinned bool) error {
	return errors.Join(w.here.pin(pinned), w.there.pin(pinned))
}

// renew puts another directory in the place of the cold files, which nobody
// knows. (Writing them where they are watched makes so much noise that they are
// not watched any more.)
func (w *world) renew(context.Context) error {
	fresh := filepath.Join(w.dir, "fresh")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	w.renewed++
	return errors.Join(writeFiles(fresh, strconv.Itoa(w.renewed%10), smallFiles), os.Rename(w.cold, filepath.Join(w.dir, "old"+strconv.Itoa(w.renewed))), os.Rename(fresh, w.cold))
}

// renewTree puts another tree in the place of the last.
func (w *world) renewTree(context.Context) error {
	const directories, each = 20, 50
	fresh := filepath.Join(w.dir, "freshtree")
	w.renewed++
	content := []byte(strings.Repeat(strconv.Itoa(w.renewed%10), smallSize))
	for d := range directories {
		dir := filepath.Join(fresh, "d"+strconv.Itoa(d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range each {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(f)), content, 0o644); err != nil {
				return err
			}
		}
	}
	err := os.Rename(w.tree, filepath.Join(w.dir, "oldtree"+strconv.Itoa(w.renewed)))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.Rename(fresh, w.tree))
}

// prepare writes the warm files once. Nothing is written beside them later: what
// changes all the time is not kept.
func (w *world) prepare(context.Context) error {
	if _, err := os.Stat(filepath.Join(w.warm, "0")); err == nil {
		return nil
	}
	return writeFiles(w.warm, "w", smallFiles)
}

func writeFiles(dir, letter string, n int) error {
	content := []byte(strings.Repeat(letter, smallSize))
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) prepareBig(context.Context) error {
	if _, err := os.Stat(w.big); err == nil {
		return nil
	}
	return errors.Join(os.WriteFile(w.big, make([]byte, bigSize), 0o644), os.WriteFile(w.pages, make([]byte, bigSize), 0o600))
}

// mirrord makes a command that runs under mirrord on this side.
func (w *world) mirrord(ctx context.Context, flags []string, argv ...string) *exec.Cmd {
	args := append([]string{"exec", "--agent", agentAddr, "-f", w.config}, flags...)
	return w.here.command(ctx, w.cli, append(append(args, "--"), argv...)...)
}
