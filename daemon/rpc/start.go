package rpc

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const startTimeout = 15 * time.Second

// start runs a daemon of this build in dir and waits until it is ready. It
// shares nothing with us: own session, own directory, no terminal, and of our
// environment only what programs need to be found. The caller holds start.lock.
func start(ctx context.Context, dir string, command []string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	defer ready.Close()
	cmd := detached(exe, slices.Concat(command, []string{"--dir", dir, "--ready", Between}), theirs)
	err = cmd.Run() // the one in between
	theirs.Close()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it is not ready after %v", startTimeout))
	defer cancel()
	defer context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Now()) })()
	words, err := io.ReadAll(io.LimitReader(ready, 4096))
	switch {
	case string(words) == readyWord:
		return nil
	case err != nil: // it may still come up, for the next client
		return fmt.Errorf("starting the daemon: %w", cmp.Or(context.Cause(ctx), err))
	case len(words) > 0:
		return fmt.Errorf("starting the daemon: %s", words)
	}
	return fmt.Errorf("starting the daemon: it ended before it was ready; see %s", filepath.Join(dir, logName))
}

// What --ready says of the process that it is given to.
const (
	Between = "between" // start the daemon, which so becomes nobody's child, and end
	Told    = "told"    // be the daemon, and tell descriptor 3 when ready
)

// ReadyFile is the descriptor that start gives to both.
func ReadyFile() *os.File { return os.NewFile(3, "ready") }

// Again does what Between says: args are this process' own. Of its descriptors the daemon
// gets ready alone: who has started all this may wait for the end of the others.
func Again(args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	args = slices.Clone(args)
	if i := slices.Index(args, Between); i >= 0 {
		args[i] = Told
	}
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // not in a launcher, which has others to start
	if err := detached(exe, args, ReadyFile()).Start(); err != nil {
		return fmt.Errorf("starting again: %w", err)
	}
	return nil
}

// detached is a daemon's command, or that of who starts it.
func detached(exe string, args []string, ready *os.File) *exec.Cmd {
	return &exec.Cmd{
		Path: exe, Args: append([]string{"mirrord"}, args...), Dir: "/",
		Env:         []string{"PATH=" + cmp.Or(os.Getenv("PATH"), "/usr/local/bin:/usr/bin:/bin"), "HOME=" + os.Getenv("HOME")},
		ExtraFiles:  []*os.File{ready}, // descriptor 3
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
}
