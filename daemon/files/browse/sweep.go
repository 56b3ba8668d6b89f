package browse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// place makes a directory where there is none, and tells what it has made, the
// innermost first; what somebody has there is not to be hidden.
func place(dir string) (made []string, err error) {
	list, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for at := dir; ; at = filepath.Dir(at) {
			if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			made = append(made, at)
		}
		err := os.MkdirAll(dir, 0o700)
		if err != nil {
			remove(made)
		}
		return made, err
	case err != nil:
		return nil, err
	case len(list) > 0 && ours(dir):
		return nil, errors.New("files are shown there already; --mount names another directory")
	case len(list) > 0:
		return nil, errors.New("it is not empty; --mount names another directory")
	}
	return nil, nil
}

// remove takes away what place has made, up to what others have put something into.
func remove(made []string) {
	for _, dir := range made {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

const sweeperName = "mirrord-sweeper" // argv[0] of the process

// A sweeper is a process that waits for the end of this one, to take away what
// that leaves when it is killed.
type sweeper struct{ cmd *exec.Cmd }

func startSweeper(dir string, made []string) (*sweeper, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("opening pidfd of this process: %w", err)
	}
	self := os.NewFile(uintptr(fd), "pidfd")
	defer self.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe", // right even after the binary was replaced
		Args:        append([]string{sweeperName, dir}, made...),
		Env:         []string{"PATH=" + os.Getenv("PATH")}, // has fusermount
		Dir:         "/",
		ExtraFiles:  []*os.File{self},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // a terminal's signals are the other's
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the process that unmounts when this one is killed: %w", err)
	}
	return &sweeper{cmd}, nil
}

func (s *sweeper) stop() {
	_ = s.cmd.Process.Kill() // nothing is left to be done
	_ = s.cmd.Wait()
}

// Serve does not return in a sweeper. It must be called at the start of main.
func Serve() {
	if os.Args[0] != sweeperName || len(os.Args) < 2 {
		return
	}
	poll := []unix.PollFd{{Fd: 3, Events: unix.POLLIN}} // readable once it has ended, with its files
	for {
		if _, err := unix.Poll(poll, -1); err != unix.EINTR {
			break
		}
	}
	Sweep(os.Args[1])
	remove(os.Args[2:])
	os.Exit(0)
}

// Sweep takes away a mount of ours whose server was killed, if that is at dir.
func Sweep(dir string) (was bool) {
	var st unix.Statfs_t // unlike stat(2) it asks the server each time
	if unix.Statfs(dir, &st) != unix.ENOTCONN || !ours(dir) {
		return false
	}
	if unix.Unmount(dir, unix.MNT_DETACH) != nil {
		_ = lazily(dir)
	}
	return true
}

// ours tells whether what is mounted at dir, dead or not, is a Mount: others'
// file systems answer ENOTCONN too.
func ours(dir string) bool {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(info), "\nmnt_id:")
	id, _, _ := strings.Cut(after, "\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		mount, what, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(mount, strings.TrimSpace(id)+" ") {
			return strings.HasPrefix(what, "fuse."+name+" "+name+" ")
		}
	}
	return false
}
