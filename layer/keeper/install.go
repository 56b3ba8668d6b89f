package keeper

import (
	"runtime"
	"syscall"
	"unsafe"
)

const (
	setModeFilter   = 1
	flagNewListener = 1 << 3
)

// An Instruction of a seccomp program is the kernel's struct sock_filter.
type Instruction struct {
	Op     uint16
	Jt, Jf uint8
	K      uint32
}

// install puts program on the calling thread and what it starts, and returns
// the listener, which the kernel made close-on-exec. The caller has locked the
// thread and never unlocks it: the thread cannot be rid of the program. Nothing
// may be trapped on it before somebody receives from the listener.
//
// TSYNC is left out, so that the rest of our process stays free, and so is
// WAIT_KILLABLE_RECV: with it a signal, and so a debugger's stop, waits for
// our answer.
func install(program []Instruction) (listener int, errno syscall.Errno) {
	if len(program) == 0 {
		return -1, syscall.EINVAL
	}
	privileged, errno := hasSysAdmin()
	if errno != 0 {
		return -1, errno
	}
	if !privileged { // sudo and ping lose their rights by it, so only where it is needed
		if err := prctl(prSetNoNewPrivs, 1); err != nil {
			return -1, err.(syscall.Errno)
		}
	}
	prog := struct {
		length uint16
		filter *Instruction
	}{uint16(len(program)), &program[0]}
	fd, _, errno := syscall.Syscall(sysSeccomp, setModeFilter, flagNewListener, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), 0
}

const (
	capabilityVersion3 = 0x20080522
	capSysAdmin        = 21
)

func hasSysAdmin() (bool, syscall.Errno) {
	header := struct {
		version uint32
		pid     int32
	}{version: capabilityVersion3}
	var data [2]struct{ effective, permitted, inheritable uint32 }
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	return data[0].effective&(1<<capSysAdmin) != 0, errno
}

const (
	prSetChildSubreaper = 36
	prSetNoNewPrivs     = 38
)

func prctl(option, value uintptr) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, value, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
