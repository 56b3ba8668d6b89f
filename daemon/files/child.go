package files

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Serve must be the first call of main: in the process that Start made it runs
// the file server and never returns, elsewhere it returns at once.
func Serve() {
	if os.Args[0] != childName {
		return
	}
	log.SetFlags(0) // the daemon's log has the time
	if err := serve(); err != nil {
		log.Print(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve mounts, tells the daemon and answers the kernel until the mount is
// gone. The mount has no place: it goes with the last descriptor of a file or of
// its root, so that what a daemon that was killed has left open fails with EIO,
// and not as that of a file server that has died (ENOTCONN).
func serve() error {
	_ = os.WriteFile("/proc/self/comm", []byte(childName), 0) // a nicety: else it is "exe"
	// What is logged goes to the daemon; a word to one that is gone is not our end.
	signal.Ignore(syscall.SIGPIPE)
	if len(os.Args) != 3 {
		return errors.New("this process is started by the daemon")
	}
	timeout, err := time.ParseDuration(os.Args[1])
	if err != nil {
		return fmt.Errorf("reading timeout: %w", err)
	}
	private := os.Args[2] == privateArg
	file := os.NewFile(3, "daemon")
	c, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("using the daemon's socket: %w", err)
	}
	file.Close()
	conn := c.(*net.UnixConn)
	memory := os.NewFile(4, "shared memory")
	shared, err := mapArena(memory)
	if err != nil {
		return err
	}
	memory.Close()

	to := newClient(conn)
	fs := newNodes(newPool(to, shared, timeout), !private)
	to.changed = fs.noticed
	server, root, st, err := mount(fs)
	if err != nil {
		errno, ok := errors.AsType[syscall.Errno](err)
		if !ok {
			log.Print(err)
			errno = syscall.EIO
		}
		return greet(conn, errno, st, nil)
	}
	if err := greet(conn, 0, 0, unix.UnixRights(root)); err != nil {
		return err
	}
	unix.Close(root)

	unmounted := make(chan struct{})
	go func() {
		defer close(unmounted)
		server.Serve()
	}()
	lost := make(chan error, 1)
	go func() { lost <- to.receive() }()
	for served := true; served; {
		select {
		case <-unmounted:
			return errors.New("the FUSE connection was aborted")
		case err := <-lost:
			if err != nil {
				log.Print(err)
			}
			served = false
		case <-time.After(timeout):
			fs.sweep(func(name string) { server.EntryNotify(fuse.FUSE_ROOT_ID, name) })
		}
	}
	log.SetOutput(io.Discard) // it went to the daemon
	to.lose()
	<-unmounted
	return nil
}

func greet(conn *net.UnixConn, errno syscall.Errno, st stage, rights []byte) error {
	b := le.AppendUint32(le.AppendUint32(nil, uint32(errno)), uint32(st))
	if _, _, err := conn.WriteMsgUnix(b, rights, nil); err != nil {
		return fmt.Errorf("greeting the daemon: %w", err)
	}
	return nil
}

// fuseDevice is the number of /dev/fuse (Linux's Documentation/admin-guide/devices.txt).
var fuseDevice = unix.Mkdev(10, 229)

// mount mounts fs detached, for this process's user namespace, and returns the
// mount's root. On error it says at which stage.
func mount(fs *nodes) (*fuse.Server, int, stage, error) {
	// Opened here and not by the daemon: the mount belongs to the user
	// namespace of the opener.
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, -1, stageDevice, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(dev, &st); err != nil || st.Rdev != fuseDevice {
		return nil, -1, stageDevice, unix.ENODEV // something else has its name
	}
	root, err := attach(dev, fs.real)
	if err != nil {
		return nil, -1, stageMount, err
	}
	server, err := fuse.NewServer(fs, "/dev/fd/"+strconv.Itoa(dev), &fuse.MountOptions{
		MaxWrite:           maxRead,
		MaxBackground:      64,
		Name:               "mirrord",
		SyncRead:           true, // see the package comment
		DisableReadDirPlus: true,
		DisableXAttrs:      true,
		DisableSplice:      true,
		ExtraCapabilities:  fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		Logger:             log.Default(),
	})
	if err != nil {
		return nil, -1, stageServe, err
	}
	return server, root, 0, nil
}

// attach makes the file system of an opened /dev/fuse. all: other users may
// use it. (In a user namespace of our own that would keep us out.)
func attach(dev int, all bool) (root int, err error) {
	ctx, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctx)
	for _, option := range [...][2]string{
		{"source", "mirrord"},
		{"subtype", "mirrord"},
		{"fd", strconv.Itoa(dev)},
		{"rootmode", "40000"},
		{"user_id", strconv.Itoa(os.Geteuid())},
		{"group_id", strconv.Itoa(os.Getegid())},
		{"max_read", strconv.Itoa(maxRead)},
	} {
		if err := unix.FsconfigSetString(ctx, option[0], option[1]); err != nil {
			return -1, err
		}
	}
	if all {
		if err := unix.FsconfigSetFlag(ctx, "allow_other"); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC,
		unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOATIME)
}
