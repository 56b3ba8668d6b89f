package layer

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// receivers is how many threads take turns as the receiver. One would do, but that
// it sleeps while it gives a descriptor: where processors idle the debuggee is far
// ahead, and at its next call, when it is awake again.
const receivers = 2

// receiveAll answers calls until there are none any more.
func (l *Layer) receiveAll() error {
	var wg sync.WaitGroup
	var ends [receivers]error
	for i := range ends {
		wg.Go(func() { ends[i] = l.receive() })
	}
	wg.Wait()
	return errors.Join(ends[:]...)
}

// receive answers calls while it is its turn.
func (l *Layer) receive() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l.listener.Join()
	l.turn.take()
	defer l.turn.end()
	var c call
	var buf [seccomp.MaxPath]byte
	for soon := false; ; {
		c = call{l: l, buf: &buf}
		if err := l.listener.Receive(&c.Notification, soon); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if int(c.NR) >= len(l.hooks) || l.hooks[c.NR] == nil {
			_ = l.listener.Continue(c.ID)
			soon = true
			continue
		}
		c.hook = l.hooks[c.NR]
		if c.hook.quick(&c) && c.doubt == nil {
			_ = l.listener.Continue(c.ID) // gone: then there is nobody to tell
			soon = true
			continue
		}
		soon = l.start(c)
	}
}

// A turn is had by one receiver at a time: of two that waited for a call each would
// wake the other up in vain. It is a futex(2), as in "Futexes Are Tricky", Drepper:
// a sync.Mutex has Go's scheduler find a thread first, which takes as long as a call.
type turn struct {
	state atomic.Uint32 // whether it is taken, or taken and waited for
}

const (
	free = iota
	taken
	wanted

	futexWait = 128 // FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE
	futexWake = 129
)

func (t *turn) take() {
	if t.state.CompareAndSwap(free, taken) {
		return
	}
	for t.state.Swap(wanted) != free {
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&t.state)), futexWait, wanted, 0, 0, 0)
	}
}

func (t *turn) end() {
	if t.state.Swap(free) == wanted {
		_, _, _ = unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&t.state)), futexWake, 1)
	}
}
