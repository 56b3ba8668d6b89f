package endpoint

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mirrord/layer/keeper"
	"mirrord/protocol/ide"
)

// Words are what the process behind an endpoint, or its launcher, says on its
// standard output: a line, once.
type Words struct {
	Endpoint string     `json:"endpoint,omitempty"`
	Failed   *ide.Error `json:"failed,omitempty"`
}

// Say says them.
func Say(out io.Writer, w Words) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	_, err = out.Write(append(b, '\n'))
	return err
}

// A socket's name in the runtime directory is no longer than the daemon's own,
// so that a directory that is good for that one is for these.
const (
	socketPrefix  = "dap-"
	socketBytes   = 3
	maxSocketPath = 107 // sun_path without its NUL
)

// A Process is the launcher of one debug session.
type Process struct {
	Endpoint string // what a DAP client connects to
	PID      int

	cmd  *exec.Cmd
	path string // of its socket, "" if it has none
}

// Start starts a launcher of the session, the mirrord at path program, which
// finds its daemon in the runtime directory dir, and returns once its endpoint
// accepts clients.
func Start(ctx context.Context, program, dir string, p ide.DebugStartParams) (*Process, error) {
	if err := checkDir(p.Client.Dir); err != nil {
		return nil, err
	}
	addr, path := TCP+":", ""
	switch cmp.Or(p.Transport, Unix) {
	case TCP:
	case Unix:
		path = filepath.Join(dir, fmt.Sprintf("%s%0*x", socketPrefix, 2*socketBytes, rand.Uint32N(1<<(8*socketBytes)))) // to be another's name: dir is ours alone
		addr = Unix + ":" + path
		if n := len(path); n > maxSocketPath {
			return nil, &ide.Error{
				Code: ide.CodeUnsupported, Msg: fmt.Sprintf("starting the debugger: the path of its socket, %s, has %d bytes, %d is the limit", path, n, maxSocketPath),
				Hint: "use transport tcp, or a shorter XDG_RUNTIME_DIR",
			}
		}
	default:
		return nil, &ide.Error{Code: ide.CodeParams, Msg: fmt.Sprintf("transport: %q is none of %s, %s", p.Transport, Unix, TCP)}
	}
	log := filepath.Join(dir, ide.LogName)
	stderr, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting the debugger: opening the log: %w", err)
	}
	defer stderr.Close()
	words, stdout, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the debugger: %w", err)
	}
	defer words.Close()
	cmd := &exec.Cmd{
		Path: program, Args: []string{"mirrord", "dlv", "--dir=" + dir, "--session=" + p.ID, "--", Command, addr},
		Dir: p.Client.Dir, Env: environ(p.Client.Env), Stdout: stdout, Stderr: stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	stdout.Close()
	if err != nil {
		return nil, fmt.Errorf("starting the debugger: %w", err)
	}
	d := &Process{PID: cmd.Process.Pid, cmd: cmd, path: path}
	w, err := hear(ctx, words)
	if err == nil && w.Failed == nil {
		d.Endpoint = w.Endpoint
		return d, nil
	}
	// Who speaks ends by itself; who does not may hang.
	if err != nil && !errors.Is(err, io.EOF) {
		d.Kill()
	}
	end := d.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil:
		return nil, w.Failed
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("it ended before it was ready: %w", end)
	}
	return nil, &ide.Error{Msg: fmt.Sprintf("starting the debugger: %v", err), Hint: "see " + log, Err: err}
}

// hear waits for the words, which are all that comes. io.EOF: there were none.
func hear(ctx context.Context, from *os.File) (w Words, err error) {
	defer context.AfterFunc(ctx, func() { from.SetReadDeadline(time.Now()) })()
	line, err := bufio.NewReader(from).ReadBytes('\n')
	if err != nil {
		return w, err
	}
	return w, json.Unmarshal(line, &w)
}

func checkDir(dir string) error {
	err := errors.New("it is not an absolute path")
	if filepath.IsAbs(dir) {
		var info fs.FileInfo
		if info, err = os.Stat(dir); err == nil && !info.IsDir() {
			err = &fs.PathError{Op: "stat", Path: dir, Err: syscall.ENOTDIR}
		}
	}
	if err != nil {
		return &ide.Error{Code: ide.CodeParams, Msg: fmt.Sprintf("client.dir: %q: %v", dir, err), Hint: "name the directory that the program is to be built in", Err: err}
	}
	return nil
}

// environ is never nil, which would be ours. The client may be a debuggee; what
// the daemon starts is none.
func environ(env []string) []string {
	return slices.DeleteFunc(append([]string{}, env...), func(pair string) bool {
		return strings.HasPrefix(pair, keeper.NestedEnv+"=")
	})
}

// Kill ends the launcher, and its keeper what is below it.
func (d *Process) Kill() { _ = d.cmd.Process.Kill() }

// Wait waits for its end, and removes what it may have left.
func (d *Process) Wait() error {
	err := d.cmd.Wait()
	if d.path != "" {
		os.Remove(d.path) // usually it is gone
	}
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// Sweep removes the sockets of debug sessions that were killed while no daemon
// was there to see it.
func Sweep(dir string) {
	all, _ := filepath.Glob(filepath.Join(dir, socketPrefix+"*")) // the pattern is a good one
	for _, path := range all {
		c, err := net.Dial("unix", path)
		if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(path)
		} else if err == nil {
			c.Close() // it lives, and takes no client that says nothing
		}
	}
}
