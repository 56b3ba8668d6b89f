package layer

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// A small file comes whole and is a file in memory here, which the debuggee may
// have open for long: what is appended to it in the target must then be seen
// (tail -f). So it is not sealed but ours to change, and nobody else's: an open
// for writing by way of /proc/self/fd is answered by us, too. One by way of a link
// of this machine to there is the kernel's to refuse: nobody has the right to write
// to the file, and for root, whom that does not stop, it is immutable, where the
// kernel knows that of files in memory and we may say so (CAP_LINUX_IMMUTABLE).
// A seal (F_SEAL_FUTURE_WRITE) would let us write through a mapping only, after
// the file has grown: who reads meanwhile would read zeros.

// Limits of following files.
const (
	followStep = 250 * time.Millisecond // after a lease has ended
	followEach = time.Second            // where there is none
	maxFollows = 256                    // files; others stay as they were opened
	maxFollow  = 64 << 20               // bytes
)

// A follower keeps files in memory like the target's while the debuggee has them
// open and no lease tells of their changes.
//
// Goroutines: one while there are any; the layer waits for it.
type follower struct {
	l    *Layer
	stop chan struct{} // closed at the layer's end

	mu    sync.Mutex
	files []*followed // guarded by mu
	runs  bool        // guarded by mu
}

// A followed file is in memory, open as memfd for us and others.
type followed struct {
	*kept
	memfd int
	size  int64
	due   time.Time
}

// newFollowable makes a file in memory that can be followed: how often it is open
// the kernel counts only of what was opened by a path.
func newFollowable(content []byte) (int, error) {
	memfd, err := unix.MemfdCreate(memfdName, unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(memfd)
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(memfd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// Whoever opens it while held looks waits, and we get a signal: one that is
	// nobody's business.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETSIG, int(unix.SIGURG))
	if err := writeAt(fd, content, 0); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func writeAt(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// held tells whether somebody else has a file in memory open: nobody then gets
// a lease (fcntl(2), F_SETLEASE) for writing.
func held(memfd int) bool {
	if _, err := unix.FcntlInt(uintptr(memfd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return err == unix.EAGAIN
	}
	_, _ = unix.FcntlInt(uintptr(memfd), unix.F_SETLEASE, unix.F_UNLCK)
	return false
}

// follow takes over memfd, which has what k says.
func (f *follower) follow(k *kept, memfd int) {
	if !held(memfd) {
		unix.Close(memfd)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.stop:
		unix.Close(memfd)
		return
	default:
	}
	if len(f.files) >= maxFollows {
		unix.Close(memfd)
		return
	}
	due := time.Now().Add(followStep)
	if k.lease == 0 {
		due = time.Now().Add(followEach)
	}
	f.files = append(f.files, &followed{kept: k, memfd: memfd, size: int64(len(k.content)), due: due})
	if !f.runs {
		f.runs = true
		f.l.team.Go(f.run)
	}
}

// end closes all. Serve calls it when nobody is left.
func (f *follower) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.stop)
}

func (f *follower) run() {
	tick := time.NewTicker(followStep)
	defer tick.Stop()
	for {
		over := false
		select {
		case <-tick.C:
		case <-f.stop:
			over = true
		}
		f.mu.Lock()
		all := f.files
		f.files = nil
		f.mu.Unlock()
		var stay []*followed
		for _, file := range all {
			switch {
			case over || !held(file.memfd):
				unix.Close(file.memfd)
			case time.Now().Before(file.due) || f.update(file):
				stay = append(stay, file)
			}
		}
		f.mu.Lock()
		f.files = append(f.files, stay...)
		f.runs = len(f.files) > 0
		ended := !f.runs
		f.mu.Unlock()
		if ended {
			return
		}
	}
}

// update looks at what has become of a file. False: its memfd is closed, or its
// cache's again.
func (f *follower) update(file *followed) (stays bool) {
	file.due = time.Now().Add(followEach)
	q := wire.Request{Op: wire.OpStat, Path: file.asked.path}
	if file.asked.noFollow {
		q.Flags = wire.OpenNoFollow
	}
	cache := f.l.Daemon.kept()
	r := f.l.Daemon.call(&q)
	closeFD(r.fd)
	switch {
	case r.Errno == uint32(unix.EIO): // it may be there again later
		return true
	case r.Errno != 0 || r.Attr.Dev != file.attr.Dev || r.Attr.Ino != file.attr.Ino:
		// Another file is there now, or none: this one stays as it was.
		var st unix.Stat_t
		if e := unix.Errno(r.Errno); (e == 0 || e == unix.ENOENT || e == unix.ENOTDIR) && unix.Fstat(file.memfd, &st) == nil {
			f.l.files.lost(st.Ino)
		}
		unix.Close(file.memfd)
		return false
	}
	k := file.kept
	if changed(&r.Attr, &file.attr) {
		if r, k = f.read(file, q.Flags); k == nil {
			if r.Errno == uint32(unix.EIO) {
				return true
			}
			unix.Close(file.memfd)
			return false
		}
	}
	if r.Lease.ID == 0 || !k.whole {
		file.kept = k
		return true
	}
	if !cache.adopt(&kept{attr: k.attr, path: k.path, content: k.content, whole: true}, file.asked, r.Lease, file.memfd, &f.l.files) {
		file.kept = k
		return true
	}
	return false
}

func changed(a, b *protocol.Attr) bool {
	return a.Size != b.Size || a.Mtime != b.Mtime || a.Ctime != b.Ctime
}

// read fetches what is new in a file. nil: it is not to be followed any more, or
// (EIO) not now.
func (f *follower) read(in *followed, flags uint32) (reply, *kept) {
	seen := f.l.files.changes.Load()
	r := f.l.Daemon.call(&wire.Request{Op: wire.OpOpen, Path: in.asked.path, Flags: flags})
	if r.Errno != 0 {
		return r, nil
	}
	var fd int
	var err error
	if r.Flags&wire.ReplyNode == 0 && r.fd >= 0 {
		fd = r.fd
	} else if fd, err = f.l.files.open(r, in.asked.path, 0); err != nil {
		return errnoReply(unix.EIO), nil
	}
	now := os.NewFile(uintptr(fd), in.path)
	defer now.Close()
	if r.Attr.Dev != in.attr.Dev || r.Attr.Ino != in.attr.Ino || r.Attr.Size > maxFollow {
		return r, nil
	}
	k := &kept{asked: in.asked, attr: r.Attr, path: in.path}
	if content, ok := contentOf(fd, r.Attr.Size); ok && r.Flags&wire.ReplyNode == 0 {
		k.content, k.whole = content, true
	}
	from := in.size
	if r.Attr.Size < in.size || k.whole && !bytes.HasPrefix(k.content, in.content) {
		from = 0
	}
	at, err := in.copy(now, from)
	if err != nil {
		return errnoReply(unix.EIO), nil
	}
	if at < in.size {
		err = unix.Ftruncate(in.memfd, at)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(in.memfd, &st)
	}
	if err != nil {
		return r, nil
	}
	k.attr.Size, in.size = at, at // more may have come since it was asked for
	f.l.files.update(st.Ino, k.attr, seen)
	return r, k
}

// copy copies from an offset to the end, and tells where that is.
func (f *followed) copy(from *os.File, at int64) (int64, error) {
	buf := make([]byte, 256<<10)
	for {
		n, err := from.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return at, err
		}
		if err := writeAt(f.memfd, buf[:n], at); err != nil {
			return at, err
		}
		if at += int64(n); err == io.EOF || at > maxFollow {
			return at, nil
		}
	}
}
