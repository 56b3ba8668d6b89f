package provision

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Tools read the version as numbers, so the binary must know one.
const linkerFlags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=v1.34.4" +
	" -X k8s.io/component-base/version.gitMajor=1" +
	" -X k8s.io/component-base/version.gitMinor=34"

// PauseImage is the name under which the runtime looks for the pause image.
const PauseImage = "mirrord.test/pause:1"

// A builder fills dir.
type builder struct {
	source   Source
	dir      string
	progress func(string)
}

func (b builder) build(ctx context.Context) error {
	if err := b.unpack(ctx); err != nil { // first: it fails fastest
		return err
	}
	if err := b.pause(ctx); err != nil {
		return err
	}
	return b.kube(ctx)
}

// kube compiles Kubernetes, which takes minutes and tells how far it is.
func (b builder) kube(ctx context.Context) error {
	b.progress("fetching the sources of Kubernetes")
	list := b.command(ctx, b.source.module(), "go", "list", "-tags=kube", "-deps", "./kube")
	out, err := list.Output()
	if err != nil {
		return failed("listing the packages of Kubernetes", err, stderrOf(err))
	}
	total := bytes.Count(out, []byte("\n"))
	b.progress(fmt.Sprintf("compiling Kubernetes, %d packages (some minutes, once)", total))

	cmd := b.command(ctx, b.source.module(), "go", "build", "-v", "-tags=kube", "-trimpath", "-buildvcs=false",
		"-ldflags="+linkerFlags, "-o", filepath.Join(b.dir, "kube"), "./kube")
	verbose, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("compiling Kubernetes: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("compiling Kubernetes: %w", err)
	}
	// -v names each package that it compiles; what is cached it does not name.
	var complaints strings.Builder
	start, told, compiled := time.Now(), time.Now(), 0
	for lines := bufio.NewScanner(verbose); lines.Scan(); {
		line := lines.Text()
		if strings.ContainsAny(line, " :#") {
			fmt.Fprintln(&complaints, line)
			continue
		}
		compiled++
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			b.progress(fmt.Sprintf("compiled %d of %d packages in %v", compiled, total, time.Since(start).Round(time.Second)))
		}
	}
	if err := cmd.Wait(); err != nil {
		return failed("compiling Kubernetes", err, complaints.String())
	}
	return nil
}

// pause makes the image of the container that holds a pod's namespaces.
func (b builder) pause(ctx context.Context) error {
	b.progress("building the pause image")
	bin := filepath.Join(b.dir, "pause")
	err := b.run(ctx, b.source.module(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, "./pause")
	if err != nil {
		return err
	}
	defer os.Remove(bin)
	return b.run(ctx, b.source.Root, "go", "run", "./agent/image", "-o", filepath.Join(b.dir, "pause.tar"), "-name", PauseImage, bin)
}

func (b builder) run(ctx context.Context, dir, name string, args ...string) error {
	out, err := b.command(ctx, dir, name, args...).CombinedOutput()
	if err != nil {
		return failed(fmt.Sprintf("running %s %s", name, strings.Join(args, " ")), err, string(out))
	}
	return nil
}

// command is interrupted, not killed, so that it can clean up after itself.
func (b builder) command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// maxComplaint keeps an error readable; the end of what a program said matters.
const maxComplaint = 4 << 10

func failed(what string, err error, said string) error {
	said = strings.TrimSpace(said)
	said = said[max(0, len(said)-maxComplaint):]
	return fmt.Errorf("%s: %w\n%s", what, err, said)
}

func stderrOf(err error) string {
	if e, ok := err.(*exec.ExitError); ok {
		return string(e.Stderr)
	}
	return ""
}
