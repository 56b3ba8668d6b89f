package files

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// debuggee is main of the processes that tests start with argv[0] "debuggee":
// a reader whose descriptor 3 is the mount's root, or a daemon.
func debuggee() {
	if os.Args[0] != "debuggee" {
		return
	}
	runtime.LockOSThread()
	switch what := os.Args[1]; what {
	case "daemon":
		s, err := Start(context.Background(), slog.New(slog.DiscardHandler), zeros{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.cmd.Process.Pid)
		fmt.Printf("/proc/%d/fd/%d\n", os.Getpid(), s.Root().Fd())
		select {}
	case "as":
		fmt.Println(become(os.Args[2], os.Args[3], os.Args[4], os.Args[5:]))
		os.Exit(1)
	case "available":
		fmt.Println(Available())
	case "scribble":
		fd, err := unix.Openat(3, os.Args[2], unix.O_WRONLY, 0)
		if err != nil {
			fmt.Println("open:", err)
			os.Exit(1)
		}
		fmt.Println("opened")
		fmt.Println(scribble(fd))
	default:
		fd, err := unix.Openat(3, os.Args[2], unix.O_RDONLY, 0)
		if err != nil {
			fmt.Println("open:", err)
			os.Exit(1)
		}
		fmt.Println("opened")
		if what == "look" {
			look(fd, os.Args[3], os.Args[4:])
		} else {
			fmt.Println(touch(what, fd))
		}
	}
	os.Exit(0)
}

// become goes on as another user where source stands for target.
func become(uid, source, target string, args []string) error {
	id, err := strconv.Atoi(uid)
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", source, target, err)
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(id), syscall.Setuid(id)); err != nil {
		return fmt.Errorf("becoming %d: %w", id, err)
	}
	return unix.Exec("/proc/self/exe", args, os.Environ())
}

// look maps a file, which no process may do that is also its Source: a page
// fault keeps Go's runtime from stopping the world, and that the Source from
// running. It tells the hash of all, or what is at some offsets.
func look(fd int, how string, offs []string) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		fmt.Println("fstat:", err)
		os.Exit(1)
	}
	flags := unix.MAP_PRIVATE
	if how == "shared" {
		flags = unix.MAP_SHARED
	}
	b, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, flags)
	if err != nil {
		fmt.Println("mmap:", err)
		os.Exit(1)
	}
	unix.Close(fd) // a mapping outlives its descriptor
	if len(offs) == 0 {
		fmt.Printf("%x\n", sha256.Sum256(b))
	}
	for _, arg := range offs {
		off, err := strconv.Atoi(arg)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%s\n", b[off:off+len(arg)])
	}
}

// touch gets the first byte of a file and tells how often that was interrupted.
func touch(what string, fd int) (byte, int) {
	if what == "map" {
		b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			fmt.Println("mmap:", err)
			os.Exit(1)
		}
		return b[0], 0
	}
	b := make([]byte, 4096)
	for interrupted := 0; ; interrupted++ {
		_, err := unix.Pread(fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			fmt.Println("read:", err)
			os.Exit(1)
		}
		return b[0], interrupted
	}
}

// A child is a debuggee process.
type child struct {
	*exec.Cmd
	out *bufio.Scanner
}

func startDebuggee(t *testing.T, attr *syscall.SysProcAttr, files []*os.File, args ...string) child {
	t.Helper()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"debuggee"}, args...), ExtraFiles: files, SysProcAttr: attr, Stderr: os.Stderr}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return child{cmd, bufio.NewScanner(out)}
}

func (c child) line(t *testing.T) string {
	t.Helper()
	if !c.out.Scan() {
		t.Fatalf("debuggee ended: %v", c.out.Err())
	}
	return c.out.Text()
}

// within fails the test if f, which waits for an event, takes longer than a
// time that nobody would call "at once".
func within(t *testing.T, what string, f func()) {
	t.Helper()
	begin := time.Now()
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	select {
	case <-done:
		t.Logf("%s took %v", what, time.Since(begin))
	case <-time.After(2 * time.Second):
		t.Fatalf("%s takes longer than 2 s", what)
	}
}

// zeros is a source whose every node is a large file.
type zeros struct{}

func (zeros) Attr(context.Context, uint64) (protocol.Attr, error) {
	return protocol.Attr{Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: 64 << 20}, nil
}

func (zeros) Read(_ context.Context, _ uint64, p []byte, _ int64) (int, error) { return len(p), nil }

func (zeros) ReadDir(context.Context, uint64, int) ([]protocol.DirEntry, bool, error) {
	return nil, false, nil
}

func (zeros) Released(uint64) {}

func (zeros) Claim(context.Context, uint64) (Claim, error) { return Claim{}, unix.ENOENT }

func (zeros) Write(uint64, []byte, int64, uint32) func(context.Context) error {
	return func(context.Context) error { return unix.EROFS }
}

func (zeros) Change(context.Context, uint64, protocol.Write) (r protocol.WriteReply, err error) {
	return r, unix.EROFS
}

func (zeros) Flush(context.Context, uint64) error { return nil }

func (zeros) Left(uint64, uint64) {}
