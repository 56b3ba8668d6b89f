package files

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Slots bound how many reads are under way or wait to be told to the kernel,
// and with that the memory of daemon and file server.
const (
	slots    = 64
	slotSize = maxData
)

// An arena is memory that daemon and file server share: the daemon puts what
// it read into the slot that the file server named, and the kernel takes it
// from there. Pages that were never used cost nothing.
//
// A page behind the slots has the number of writes that the file server has begun
// to send.
type arena []byte

const arenaSize = slots*slotSize + 4<<10

// newArena makes an arena and the descriptor to share it by.
func newArena() (arena, *os.File, error) {
	fd, err := unix.MemfdCreate("mirrord-files", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, fmt.Errorf("making shared memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "shared memory")
	if err := f.Truncate(arenaSize); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("sizing shared memory: %w", err)
	}
	// Else the file server could end the daemon by SIGBUS.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("sealing shared memory: %w", err)
	}
	a, err := mapArena(f)
	if err != nil {
		f.Close()
	}
	return a, f, err
}

func mapArena(f *os.File) (arena, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping shared memory: %w", err)
	}
	return b, nil
}

func (a arena) slot(i uint32) []byte { return a[i*slotSize:][:slotSize:slotSize] }

// trim gives the slots' memory back to the system.
func (a arena) trim() { _ = unix.Madvise(a[:slots*slotSize], unix.MADV_REMOVE) }

func (a arena) writes() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&a[slots*slotSize])) }

func (a arena) unmap() {
	if a != nil {
		unix.Munmap(a)
	}
}
