package files

import (
	"bytes"
	"sync"
	"syscall"
	"time"
)

const (
	// patience is how long an interrupted call still waits. Go's runtime
	// interrupts its threads often, a profiler more so, and C programs do not
	// expect EINTR of a file: most round trips end before. Who debugs hardly
	// notices this delay of a stop.
	patience = 250 * time.Millisecond

	// retryTime is how long the answer to an interrupted call is kept for
	// its retry.
	retryTime = 5 * time.Second
)

// A fetch is one request to the daemon. Whoever needs the answer waits for it;
// who is interrupted leaves the fetch to go on, and joins it at the next try.
type fetch struct {
	done chan struct{} // closed when the fields below are set

	data  []byte
	errno syscall.Errno
}

func (f *fetch) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// wait waits for the answer, after an interrupt not for long. It tells whether
// the answer came.
func (f *fetch) wait(interrupt <-chan struct{}) bool { return f.waitFor(interrupt, patience) }

func (f *fetch) waitFor(interrupt <-chan struct{}, patience time.Duration) bool {
	if f.over() {
		return true
	}
	select {
	case <-f.done:
		return true
	case <-interrupt:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.done:
		return true
	case <-timer.C:
		return false
	}
}

// fetches are the requests whose answers are not cached: each is handed out
// once, to all who wait for it.
type fetches struct {
	pool *pool
	// unasked gets the answers that nobody came for again.
	unasked func(request, []byte)

	mu sync.Mutex
	m  map[request]*single // guarded by mu
}

// A single is a fetch of an answer of its own.
type single struct {
	fetch
	kept bool // guarded by fetches.mu; dropped after retryTime
}

// do answers r. EINTR: the caller was interrupted.
func (fs *fetches) do(interrupt <-chan struct{}, r request) ([]byte, syscall.Errno) {
	fs.mu.Lock()
	f := fs.m[r]
	if f == nil {
		f = &single{fetch: fetch{done: make(chan struct{})}}
		fs.m[r] = f
		go fs.run(r, f)
	}
	fs.mu.Unlock()
	if !f.wait(interrupt) {
		fs.keep(r, f)
		return nil, syscall.EINTR
	}
	fs.drop(r, f)
	return f.data, f.errno
}

func (fs *fetches) run(r request, f *single) {
	defer close(f.done)
	if r.op == opRead {
		var slot uint32
		if f.data, slot, f.errno = fs.pool.read(r); f.errno == 0 {
			f.data = bytes.Clone(f.data)
			fs.pool.put(slot)
		}
		return
	}
	timer := time.NewTimer(fs.pool.timeout)
	defer timer.Stop()
	select {
	case a := <-fs.pool.to.ask(r, 0):
		f.data, f.errno = a.data, a.errno
	case <-timer.C:
		f.errno = syscall.EIO
	}
}

// keep keeps f for a retry, but not for ever.
func (fs *fetches) keep(r request, f *single) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.kept {
		return
	}
	f.kept = true
	go func() {
		<-f.done
		time.AfterFunc(retryTime, func() {
			if fs.drop(r, f) && f.errno == 0 {
				fs.unasked(r, f.data)
			}
		})
	}()
}

// drop tells whether f was still there.
func (fs *fetches) drop(r request, f *single) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.m[r] != f {
		return false
	}
	delete(fs.m, r)
	return true
}
