// Command demo shows the main job on a real cluster, as a transcript: a
// changed copy of the sample shop's web runs on this machine in the context of
// the deployed one's pod, answers a request that another pod sends to the
// Service, and leaves the pod as it was. `./task demo` prepares what it needs.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const patience = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "mirrord-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// A daemon of the demo's own, so that it ends with the demo.
	os.Setenv("XDG_RUNTIME_DIR", dir)
	os.Setenv("KUBECONFIG", ".cluster/kubeconfig")

	say("The sample shop runs in a real cluster: web asks inventory.")
	for _, args := range [][]string{
		{"apply", "-f", "testdata/apps/shop/shop.yaml"},
		{"-n", "shop", "rollout", "status", "deployment/web", "deployment/inventory", "--timeout=120s"},
		{"-n", "shop", "wait", "--for=condition=Ready", "pod/client", "--timeout=120s"},
	} {
		if out, err := exec.CommandContext(ctx, ".cluster/kubectl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("deploying the shop: %w\n%s", err, out)
		}
	}
	if err := show(ctx, ".cluster/kubectl", "-n", "shop", "get", "pods"); err != nil {
		return err
	}
	say("Another pod sends a request to the Service; the pod answers:")
	if err := ask(ctx, "cluster"); err != nil {
		return err
	}

	web := filepath.Join(dir, "web")
	say("A developer changes web's answer and builds it:")
	if err := buildChanged(ctx, dir, web); err != nil {
		return err
	}
	say("... and runs it here, in the context of that pod:")
	local, err := start(ctx, web)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exec.Command("bin/mirrord", "daemon", "stop").Run()) }()
	defer func() { err = errors.Join(err, local.kill()) }()
	if err := local.wait("listens on"); err != nil {
		return err
	}
	say("The same request from the other pod reaches this machine. The answer has the pod's\nenvironment, Secret file and host name, and what inventory said to it by name:")
	if err := ask(ctx, "a change made on this machine"); err != nil {
		return err
	}
	say("Ctrl-C.")
	if err := local.interrupt(); err != nil {
		return err
	}
	say("The pod answers again:")
	if err := ask(ctx, "cluster"); err != nil {
		return err
	}
	say("Left in the cluster: the agent, until its idle time is over.")
	return show(ctx, ".cluster/kubectl", "-n", "shop", "get", "pods")
}

func say(text string) { fmt.Printf("\n# %s\n", strings.ReplaceAll(text, "\n", "\n# ")) }

// show runs a command as a person would, with its output.
func show(ctx context.Context, name string, args ...string) error {
	fmt.Println("$", strings.TrimPrefix(name, ".cluster/"), strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return cmd.Run()
}

// ask sends a request from the client pod and checks which copy answered.
func ask(ctx context.Context, copy string) error {
	args := []string{"-n", "shop", "exec", "client", "--", "/shop", "get", "http://web/"}
	fmt.Println("$ kubectl", strings.Join(args, " "))
	out, err := exec.CommandContext(ctx, ".cluster/kubectl", args...).Output()
	if err != nil {
		return fmt.Errorf("asking web: %w", err)
	}
	fmt.Print(string(out))
	var answer struct{ Copy string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return fmt.Errorf("asking web: %w", err)
	}
	if answer.Copy != copy {
		return fmt.Errorf("asking web: %q answered, not %q", answer.Copy, copy)
	}
	return nil
}

// buildChanged builds web from a changed source, which stays outside the tree.
func buildChanged(ctx context.Context, dir, out string) error {
	const file = "testdata/apps/shop/front/front.go"
	const was, is = `s := &server{copy: *name,`, `s := &server{copy: "a change made on this machine",`
	source, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !strings.Contains(string(source), was) {
		return fmt.Errorf("changing %s: it has no %q", file, was)
	}
	fmt.Printf("-	%s\n+	%s\n", was, is)
	changed := filepath.Join(dir, "front.go")
	// The flag that gave the name stays in use.
	text := strings.Replace(string(source), was, "_ = name\n\t"+is, 1)
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		return err
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	replace, _ := json.Marshal(map[string]any{"Replace": map[string]string{abs: changed}})
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return err
	}
	fmt.Println("$ go build -o web ./testdata/apps/shop/web")
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", out, "./testdata/apps/shop/web")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // static: no library could be preloaded
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return cmd.Run()
}

// A local is the copy that runs here.
type local struct {
	cmd   *exec.Cmd
	lines chan string // of its output, closed at its end
}

func start(ctx context.Context, web string) (*local, error) {
	fmt.Println("$ mirrord exec --target deployment/web -n shop --steal -- ./web")
	l := &local{
		cmd:   exec.CommandContext(ctx, "bin/mirrord", "exec", "--target", "deployment/web", "-n", "shop", "--steal", "--", web),
		lines: make(chan string),
	}
	r, w := io.Pipe()
	l.cmd.Stdout, l.cmd.Stderr = w, w
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		l.cmd.Wait()
		w.Close()
	}()
	go func() {
		defer close(l.lines)
		for scan := bufio.NewScanner(r); scan.Scan(); {
			fmt.Println("  |", scan.Text())
			l.lines <- scan.Text()
		}
	}()
	return l, nil
}

// wait returns when the copy has said something; what it says later is still shown.
func (l *local) wait(something string) error {
	timeout := time.After(patience)
	for {
		select {
		case line, ok := <-l.lines:
			if !ok {
				return errors.New("web ended too early")
			}
			if strings.Contains(line, something) {
				go func() {
					for range l.lines {
					}
				}()
				return nil
			}
		case <-timeout:
			return fmt.Errorf("web did not say %q in %v", something, patience)
		}
	}
}

func (l *local) interrupt() error {
	if err := l.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	return l.ended()
}

// kill ends the copy if it still runs.
func (l *local) kill() error {
	if err := l.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return l.ended()
}

// ended waits for the copy's end.
func (l *local) ended() error {
	timeout := time.After(patience)
	for {
		select {
		case _, ok := <-l.lines:
			if !ok {
				return nil
			}
		case <-timeout:
			return fmt.Errorf("web did not end in %v", patience)
		}
	}
}
