package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childName is argv[0] of the file server.
const childName = "mirrord-files"

// Its last argument: whether it has a user namespace of its own.
const (
	privateArg = "private"
	sharedArg  = "shared"
)

// startTimeout bounds the mounting, which takes a few milliseconds.
const startTimeout = 10 * time.Second

// A Server is the daemon's side of the file server.
//
// Goroutines: Start starts two, Close waits for both.
//
//  1. answer: reads the file server's requests, with a goroutine for each;
//     ends when the socket does.
//  2. reap: waits for the file server and closes Done.
type Server struct {
	log  *slog.Logger
	cmd  *exec.Cmd
	conn *net.UnixConn
	to   *answerer
	root *os.File
	wg   sync.WaitGroup
	done chan struct{} // closed by reap

	mu    sync.Mutex
	arena arena // guarded by mu; nil once Close has ended all that use it
}

// Start starts the file server and mounts. The server ends with ctx, if not by
// Close; Close must be called in any case.
func Start(ctx context.Context, log *slog.Logger, src Source) (*Server, error) {
	return start(ctx, log, src, fetchTimeout)
}

func start(ctx context.Context, log *slog.Logger, src Source, timeout time.Duration) (*Server, error) {
	shared, memory, err := newArena()
	if err != nil {
		return nil, fmt.Errorf("starting the file server: %w", err)
	}
	defer memory.Close()
	s := &Server{log: log, arena: shared, done: make(chan struct{})}
	if err := s.spawn(memory, !mayMount(), timeout); err != nil {
		shared.unmap()
		return nil, err
	}
	root, err := greeting(s.conn)
	s.wg.Go(s.reap) // not before: it closes what the greeting comes by
	if err != nil {
		s.kill()
		s.wg.Wait()
		shared.unmap()
		return nil, err
	}
	s.root = root
	if err := widenReadAhead(root); err != nil {
		log.Debug("read-ahead of remote files stays at the kernel's default", "err", err)
	}
	s.to = newAnswerer(s.conn, shared, src, timeout)
	s.wg.Go(func() {
		defer s.kill()
		if err := s.to.run(); err != nil {
			log.Warn("file server is cut off", "err", err)
		}
	})
	stop := context.AfterFunc(ctx, s.kill)
	s.wg.Go(func() { // ends the watch of ctx with the process
		<-s.done
		stop()
	})
	return s, nil
}

// spawn starts the process; private: in a user namespace of its own, where it
// may mount.
func (s *Server) spawn(memory *os.File, private bool, timeout time.Duration) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making socketpair to the file server: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "files"), os.NewFile(uintptr(fds[1]), "files")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return fmt.Errorf("making socketpair to the file server: %w", err)
	}
	s.conn = conn.(*net.UnixConn)

	s.cmd = &exec.Cmd{
		Path:       "/proc/self/exe", // right even after the binary was replaced
		Args:       []string{childName, timeout.String(), sharedArg},
		Env:        []string{},
		Dir:        "/",
		ExtraFiles: []*os.File{theirs, memory},
		Stderr:     &lineWriter{log: s.log},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid: true, // a terminal's signals are the daemon's
		},
	}
	if private {
		s.cmd.Args[2] = privateArg
		s.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
		// 0, because any other user would lose its capabilities at exec.
		s.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		s.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if err := s.cmd.Start(); err != nil {
		s.conn.Close()
		return unavailable(stageSpawn, err)
	}
	return nil
}

// greeting receives the mount's root.
func greeting(conn *net.UnixConn) (*os.File, error) {
	conn.SetReadDeadline(time.Now().Add(startTimeout))
	defer conn.SetReadDeadline(time.Time{})
	var b [greetingSize]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(b[:], oob)
	if err == nil && n < greetingSize {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("starting the file server: waiting for its mount: %w", err)
	}
	if errno := syscall.Errno(le.Uint32(b[:])); errno != 0 {
		return nil, unavailable(stage(le.Uint32(b[4:])), errno)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err == nil && len(msgs) == 1 {
		var fds []int
		if fds, err = unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "root of remote files"), nil
		}
	}
	return nil, errors.Join(errors.New("starting the file server: it sent no root"), err)
}

// readAhead is how much the kernel asks for at once for a sequential reader, and
// around each page of a mapping that is touched at random: there a block more
// comes with it, so that 100 pages cost 25 MiB.
const readAhead = 192 << 10

// widenReadAhead sets it, which only root may.
func widenReadAhead(root *os.File) error {
	device, err := deviceOf(root)
	if err != nil {
		return err
	}
	f, err := os.OpenFile("/sys/class/bdi/"+device+"/read_ahead_kb", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprint(f, readAhead>>10)
	return err
}

// deviceOf is the mount's device, major:minor.
func deviceOf(root *os.File) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(root.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return "", fmt.Errorf("finding device of the mount: %w", err)
	}
	return fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor), nil
}

// reap waits for the process. Its descriptors were the mount, so that this is
// gone too.
func (s *Server) reap() {
	defer close(s.done)
	defer s.conn.Close()
	err := s.cmd.Wait()
	s.log.Debug("file server ended", "err", err)
}

// kill ends the file server. A hard end leaves nothing: the kernel answers
// blocked calls with ENOTCONN or ECONNABORTED (one that was just being handed
// over with EIO) and drops the mount.
func (s *Server) kill() { s.cmd.Process.Kill() }

// Root is the mount's root, an O_PATH descriptor: a node is opened below it by
// openat(2), which must be tried again on EINTR.
func (s *Server) Root() *os.File { return s.root }

// CaughtUp waits until the Source has been told of all writes whose write(2) has
// returned, for as long as ctx lasts.
func (s *Server) CaughtUp(ctx context.Context) {
	var n uint64
	s.mu.Lock()
	if s.arena != nil {
		n = s.arena.writes().Load()
	}
	s.mu.Unlock()
	s.to.begun.reach(ctx, n)
}

// Changed has the kernel ask for attributes of shared nodes that it may have kept.
// It waits until it would, for as long as ctx lasts.
func (s *Server) Changed(ctx context.Context, nodes []uint64) {
	for _, node := range nodes {
		s.to.notify(ctx, node)
	}
}

// Done is closed when the file server has ended, by Close or by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Close ends the file server and waits for it. Open nodes of it answer
// ENOTCONN from then on.
func (s *Server) Close() error {
	s.kill()
	s.wg.Wait()
	s.mu.Lock()
	s.arena.unmap()
	s.arena = nil
	s.mu.Unlock()
	return s.root.Close()
}

// A lineWriter logs what the file server says on stderr.
type lineWriter struct{ log *slog.Logger }

func (w *lineWriter) Write(b []byte) (int, error) {
	w.log.Warn("file server says", "text", string(bytes.TrimSpace(b)))
	return len(b), nil
}
