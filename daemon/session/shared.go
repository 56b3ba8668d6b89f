package session

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/files"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
)

// maxUnwritten is how many bytes of one file may be on their way to the target
// while writers go on.
const maxUnwritten = 8 << 20

// A sharedKey is by which all who open a file of a target find each other.
type sharedKey struct {
	tunnel   *tunnel.Tunnel
	dev, ino uint64
}

// A shared is a file that is open for writing on this machine, by any number of
// debuggees of any sessions: one node, one order of what is done to it.
type shared struct {
	id   uint64
	key  sharedKey
	path string // by which it was opened first

	// guarded by nodes.mu
	numbers int    // that launchers were told of and that nobody has claimed
	claims  uint64 // numbers that the file server has claimed
	opened  bool   // the file server has claimed one since all had left it

	writer *tunnel.Writer

	mu          sync.Mutex
	read, write uint64          // guarded by mu; handles, 0: there is none
	attr        protocol.Attr   // guarded by mu; as the agent told last
	known       protocol.Stamp  // guarded by mu; attr's
	checked     time.Time       // guarded by mu; when it was told
	stales      uint64          // guarded by mu; how often what was being told was not to be believed
	size        int64           // guarded by mu; with what is on its way
	version     int64           // guarded by mu; how often the content changed but by what went through the kernel
	base        int64           // mtime of version 0
	last        *tunnel.Writing // guarded by mu; the latest that was begun
	under       int             // guarded by mu; begun and not answered
	unwritten   int             // guarded by mu; bytes of those
	progress    chan struct{}   // guarded by mu; closed, and made anew, when that changes
	failed      error           // guarded by mu; of a write that was taken and of which nobody was told
}

func newShared(id uint64, key sharedKey, o protocol.OpenReply) *shared {
	return &shared{
		id: id, key: key, path: string(o.Path), writer: key.tunnel.Writer(), attr: o.Attr, known: o.Attr.Stamp(), checked: time.Now(),
		size: o.Attr.Size, base: o.Attr.Mtime, progress: make(chan struct{}),
	}
}

// join adds a handle; it tells which is of no use, 0: it is.
func (s *shared) join(handle uint64, c *protocol.OpenChange) (useless uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := false
	if c != nil && c.Write && s.write == 0 {
		s.write, used = handle, true
	}
	if (c == nil || c.Read) && s.read == 0 {
		s.read, used = handle, true
	}
	if used {
		return 0
	}
	return handle
}

// handles are those to be closed.
func (s *shared) handles() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.DeleteFunc([]uint64{s.read, s.write}, func(h uint64) bool { return h == 0 })
	return slices.Compact(list)
}

// stale has the agent asked before anything is told of the file.
func (s *shared) stale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked = time.Time{}
	s.stales++
}

// begin has something done after all else. s.mu is held.
func (s *shared) begin(q protocol.Write, data []byte, then func(error)) *tunnel.Writing {
	n := len(data)
	s.under++
	s.unwritten += n
	stales := s.stales
	done := func(r protocol.WriteReply, err error) { // s.mu is held
		s.under--
		s.unwritten -= n
		close(s.progress)
		s.progress = make(chan struct{})
		s.answered(q, r, err, stales)
		then(err)
	}
	x, begun := s.writer.Begin(q, data, func(r protocol.WriteReply, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		done(r, err)
	})
	if !begun {
		done(x.Reply, x.Err)
	}
	s.last = x
	return x
}

// answered takes what the agent says of the file, if it was asked after the last
// that made it stale. s.mu is held.
func (s *shared) answered(q protocol.Write, r protocol.WriteReply, err error, stales uint64) {
	if err != nil {
		if q.Do == protocol.WriteData { // of which some may be written, or none
			s.version++
			s.checked = time.Time{}
		}
		return
	}
	if r.Before != s.known || q.Do == protocol.WriteAttr {
		// Others have changed it. (Of an attribute that was set, the kernel
		// would not notice what it is told with the answer.)
		s.version++
	}
	s.attr, s.known = r.Attr, r.Attr.Stamp()
	if stales == s.stales {
		s.checked = time.Now()
	}
	if s.under == 0 {
		s.size = r.Attr.Size
	}
}

// wait waits for x, which need not be done for ctx's end.
func wait(ctx context.Context, x *tunnel.Writing) error {
	if x == nil {
		return nil
	}
	select {
	case <-x.Done():
		return x.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settled waits until all that was begun is done.
func (s *shared) settled(ctx context.Context) error {
	s.mu.Lock()
	x := s.last
	s.mu.Unlock()
	if err := wait(ctx, x); ctx.Err() != nil {
		return err
	}
	return nil
}

// fresh asks the agent if what it told last may be untrue, or of old.
func (s *shared) fresh(ctx context.Context, exact bool) error {
	s.mu.Lock()
	if time.Since(s.checked) < files.SharedTime && !(exact && s.under > 0) {
		s.mu.Unlock()
		return nil
	}
	x := s.begin(protocol.Write{Handle: s.any(), Do: protocol.WriteStat}, nil, func(error) {})
	s.mu.Unlock()
	return wait(ctx, x)
}

// any is one of the handles. s.mu is held.
func (s *shared) any() uint64 {
	if s.write != 0 {
		return s.write
	}
	return s.read
}

// kernelAttr is what the kernel is to know: with what is on its way, and with an
// mtime that changes only where what it has cached is untrue.
func (s *shared) kernelAttr(ctx context.Context) (protocol.Attr, error) {
	if err := s.fresh(ctx, false); err != nil {
		return protocol.Attr{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forKernel(), nil
}

// forKernel is called with s.mu held.
func (s *shared) forKernel() protocol.Attr {
	a := s.attr
	a.Size, a.Mtime = s.size, s.base+s.version
	return a
}

// userAttr is what fstat(2) tells.
func (s *shared) userAttr(ctx context.Context) (protocol.Attr, error) {
	if err := s.fresh(ctx, true); err != nil {
		return protocol.Attr{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attr, nil
}

// failure gives the error of a write that nobody was told of, once.
func (s *shared) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.failed
	s.failed = nil
	return err
}

func failedAlready(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

func (s *shared) writeData(p []byte, off int64, flags uint32) func(context.Context) error {
	if err := s.failure(); err != nil {
		return failedAlready(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.write == 0 {
		return failedAlready(unix.EBADF)
	}
	if flags&protocol.WriteAppend != 0 {
		off = s.size
	}
	s.size = max(s.size, off+int64(len(p)))
	// Guarded by s.mu. taken: nobody waits for the outcome any more.
	var taken, answered bool
	var outcome error
	s.begin(protocol.Write{Handle: s.write, Offset: off, Flags: flags}, p, func(err error) {
		if answered, outcome = true, err; taken && s.failed == nil {
			s.failed = err
		}
	})
	synced := flags&(protocol.WriteSynced|protocol.WriteDataOnly) != 0
	if !answered && !synced && s.unwritten <= maxUnwritten {
		taken = true
		return nil
	}
	return func(ctx context.Context) error {
		for {
			s.mu.Lock()
			progress := s.progress
			taken = !answered && (!synced && s.unwritten <= maxUnwritten || ctx.Err() != nil)
			accepted, done, err := taken, answered, outcome
			s.mu.Unlock()
			switch {
			case done:
				return err
			case accepted:
				return context.Cause(ctx)
			}
			select {
			case <-progress:
			case <-ctx.Done():
			}
		}
	}
}

// change does what q says, but to write data.
func (s *shared) change(ctx context.Context, q protocol.Write) (protocol.WriteReply, error) {
	s.mu.Lock()
	needsWrite := q.Do == protocol.WriteAllocate || q.Do == protocol.WriteAttr && q.Set != nil && q.Set.Size != nil
	if q.Handle = s.any(); q.Handle == 0 || needsWrite && s.write == 0 {
		s.mu.Unlock()
		return protocol.WriteReply{}, unix.EBADF
	}
	switch {
	case needsWrite && q.Do == protocol.WriteAttr:
		s.size = *q.Set.Size
	case needsWrite && q.Flags&unix.FALLOC_FL_KEEP_SIZE == 0:
		s.size = max(s.size, q.Offset+q.Length)
	}
	x := s.begin(q, nil, func(err error) {
		if err != nil && needsWrite {
			s.size, s.checked = s.attr.Size, time.Time{}
		}
	})
	s.mu.Unlock()
	if err := wait(ctx, x); err != nil {
		return protocol.WriteReply{}, err
	}
	if q.Do == protocol.WriteSync {
		if err := s.failure(); err != nil {
			return protocol.WriteReply{}, err
		}
	}
	r := x.Reply
	s.mu.Lock()
	r.Attr = s.forKernel()
	s.mu.Unlock()
	return r, nil
}

func (s *shared) flush(ctx context.Context) error {
	if err := s.settled(ctx); err != nil {
		return err
	}
	return s.failure()
}

func (s *shared) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := s.settled(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	f := node{tunnel: s.key.tunnel, handle: s.read}
	s.mu.Unlock()
	if f.handle == 0 {
		return 0, unix.EBADF
	}
	return f.read(ctx, p, off)
}
