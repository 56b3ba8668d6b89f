package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	hereVar    = "MIRRORD_BENCH_HERE"
	smallFiles = 2000
	smallSize  = 2048
	hereAddr   = "10.99.0.1"
	thereAddr  = "10.99.0.2"
)

// A world is what the rows are measured in.
type world struct {
	self       string // this program
	dir        string // temporary; the daemon's runtime directory
	files      string // of small files, which the configuration makes Remote
	config     string // of mirrord
	agent      string // its address
	localHTTP  string // URL on this side's loopback
	remoteHTTP string // URL that is reached from the other side
	other      *exec.Cmd
	otherIn    io.Closer
}

// enterNamespace runs this program again in a network namespace of its own.
func enterNamespace() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), hereVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread() // Pdeathsig is about this thread
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("making a network namespace: %w; run it as root", err)
	}
	return err
}

func newWorld() (w *world, err error) {
	w = &world{agent: thereAddr + ":7777", remoteHTTP: "http://" + thereAddr + ":8000/"}
	if w.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if w.dir, err = os.MkdirTemp("", "mirrord-bench"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if err := w.makeFiles(); err != nil {
		return nil, err
	}
	if err := w.startOther(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	serve(l)
	w.localHTTP = "http://" + l.Addr().String() + "/"
	return w, nil
}

// serve answers HTTP on l for as long as this process lives.
func serve(l net.Listener) {
	go func() {
		err := http.Serve(l, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(rw, "hello, this is the answer")
		}))
		fmt.Fprintln(os.Stderr, "bench: serving:", err)
	}()
}

// makeFiles fills the directory of small files, and says in a configuration
// that it is the target's.
func (w *world) makeFiles() error {
	w.files = filepath.Join(w.dir, "files")
	if err := os.Mkdir(w.files, 0o755); err != nil {
		return err
	}
	content := []byte(strings.Repeat("x", smallSize))
	for i := range smallFiles {
		if err := os.WriteFile(filepath.Join(w.files, strconv.Itoa(i)), content, 0o644); err != nil {
			return err
		}
	}
	w.config = filepath.Join(w.dir, "mirrord.json")
	config, err := json.Marshal(map[string]any{"feature": map[string]any{"fs": map[string]any{
		"mode": "read", "read_only": []string{"^" + w.files + "/"},
	}}})
	if err != nil {
		return err
	}
	return os.WriteFile(w.config, config, 0o600)
}

// startOther starts the other side and joins it to this one by a veth pair.
func (w *world) startOther() error {
	w.other = exec.Command(w.self, "there", thereAddr)
	w.other.Stderr = os.Stderr
	w.other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := w.other.StdinPipe()
	if err != nil {
		return err
	}
	out, err := w.other.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.other.Start(); err != nil {
		return err
	}
	w.otherIn = in
	err = ip(
		"link set lo up",
		fmt.Sprintf("link add here type veth peer name there netns %d", w.other.Process.Pid),
		"addr add "+hereAddr+"/24 dev here",
		"link set here up",
	)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(in, "linked\n"); err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the other side: %w", err)
	}
	return nil
}

func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

// there is the other side: servers and an agent, until its input ends.
func there(addr string) error {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	if err := ip("link set lo up", "addr add "+addr+"/24 dev there", "link set there up"); err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr+":8000")
	if err != nil {
		return err
	}
	serve(l)
	runtime.LockOSThread() // Pdeathsig is about this thread
	agent := exec.Command("bin/mirrord-agent", "--listen", addr+":7777")
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := agent.StdoutPipe()
	if err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	fmt.Print(line)
	_, err = io.Copy(io.Discard, in)
	return errors.Join(err, agent.Process.Signal(syscall.SIGTERM), agent.Wait())
}

// close ends all that the world started.
func (w *world) close() {
	if out, err := exec.Command("env", "XDG_RUNTIME_DIR="+w.dir, "bin/mirrord", "daemon", "stop").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: stopping the daemon: %v: %s\n", err, out)
	}
	if w.otherIn != nil {
		w.otherIn.Close()
		w.other.Wait()
	}
	os.RemoveAll(w.dir)
}
