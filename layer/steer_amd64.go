package layer

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// A working directory cannot be given as a descriptor can. So the thread that
// waits for the answer to its chdir(2) is stopped, as by a debugger, and makes
// two other calls in its place: fchdir(2) to a directory that it was given, and
// close(2). What chdir returns is what fchdir did.

// Requests of ptrace(2) that package unix has no function for.
const (
	ptraceGetSiginfo = 0x4202
	ptraceSetSiginfo = 0x4203
	ptraceGetSigmask = 0x420a
	ptraceSetSigmask = 0x420b
	eventStop        = 128 // PTRACE_EVENT_STOP
	syscallStop      = unix.SIGTRAP | 0x80
)

const restarts = -512 // ERESTARTSYS

// A steered thread is held by the launcher's, which does not leave its own
// thread meanwhile.
type steered struct {
	tid    int
	regs   unix.PtraceRegs // where it was stopped
	mask   uint64          // of its signals
	signal unix.Signal     // that came before it was stopped, and waits
	info   [128]byte       // of that signal
}

// steer makes thread tid, which waits for the answer to call nr, go to the
// directory that add gives it; the call is over then. ENOTSUP: the thread cannot
// be held, as where a debugger holds it, and waits on. Any other error: it does
// not wait any more.
func steer(tid int, nr int32, add func() (fd int, err error)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(tid); err != nil {
		if err == unix.ESRCH {
			return errStrayed
		}
		return unix.ENOTSUP
	}
	s := steered{tid: tid}
	fd, err := add()
	if held := s.hold(err == nil, nr, fd); held != nil && err == nil {
		err = fmt.Errorf("steering thread %d: %w", tid, held)
	}
	return err
}

// hold stops the thread, has it go if it is where it should be, and lets it go on.
func (s *steered) hold(do bool, nr int32, fd int) error {
	if err := s.stop(); err != nil {
		return s.lost(err)
	}
	if err := unix.PtraceGetRegs(s.tid, &s.regs); err != nil {
		return s.lost(err)
	}
	var insn [2]byte
	if !do || int64(s.regs.Orig_rax) != int64(nr) || int64(s.regs.Rax) != restarts ||
		seccomp.Read(uint32(s.tid), s.regs.Rip-2, insn[:]) != nil || insn != [2]byte{0x0f, 0x05} {
		return errors.Join(errStrayed, s.detach(s.signal))
	}
	if err := s.redirect(fd); err != nil {
		return s.lost(err)
	}
	return nil
}

// redirect has the thread make the two calls. Signals wait meanwhile.
func (s *steered) redirect(fd int) error {
	if err := errors.Join(
		unix.PtraceSetOptions(s.tid, unix.PTRACE_O_TRACESYSGOOD),
		s.request(ptraceGetSigmask, 8, unsafe.Pointer(&s.mask)),
	); err != nil {
		return err
	}
	all := ^uint64(0)
	if err := s.request(ptraceSetSigmask, 8, unsafe.Pointer(&all)); err != nil {
		return err
	}
	result, err := s.call(unix.SYS_FCHDIR, uint64(fd))
	for err == nil && int64(result) == restarts { // SIGSTOP came while it waited for the layer
		result, err = s.call(unix.SYS_FCHDIR, uint64(fd))
	}
	if err == nil {
		_, err = s.call(unix.SYS_CLOSE, uint64(fd))
	}
	if err != nil {
		return err
	}
	end := s.regs
	end.Orig_rax, end.Rax = ^uint64(0), result // no call is to be made again
	if err := errors.Join(unix.PtraceSetRegs(s.tid, &end), s.request(ptraceSetSigmask, 8, unsafe.Pointer(&s.mask))); err != nil {
		return err
	}
	if s.signal == 0 {
		return s.detach(0)
	}
	// It gets its signal as it came.
	if err := unix.PtraceCont(s.tid, int(s.signal)); err != nil {
		return err
	}
	ws, err := s.wait()
	for err == nil && ws.TrapCause() == eventStop {
		if err = unix.PtraceCont(s.tid, 0); err == nil {
			ws, err = s.wait()
		}
	}
	if err != nil {
		return err
	}
	if ws.StopSignal() == s.signal {
		_ = s.request(ptraceSetSiginfo, 0, unsafe.Pointer(&s.info))
	}
	return s.detach(ws.StopSignal())
}

// call has the thread make a call with one argument.
func (s *steered) call(nr, arg uint64) (result uint64, err error) {
	regs := s.regs
	regs.Orig_rax, regs.Rax, regs.Rdi, regs.Rip = ^uint64(0), nr, arg, s.regs.Rip-2
	if err := unix.PtraceSetRegs(s.tid, &regs); err != nil {
		return 0, err
	}
	signal := unix.Signal(0)
	for stops := 0; stops < 2; { // at its begin and at its end
		if err := unix.PtraceSyscall(s.tid, int(signal)); err != nil {
			return 0, err
		}
		ws, err := s.wait()
		if err != nil {
			return 0, err
		}
		switch signal = 0; {
		case ws.StopSignal() == syscallStop:
			stops++
		case int(ws)>>16 == 0: // SIGSTOP, which no mask keeps: it stops when we leave it
			signal = ws.StopSignal()
		}
	}
	err = unix.PtraceGetRegs(s.tid, &regs)
	return regs.Rax, err
}

// stop waits until the thread has left its call, and notes a signal that was
// the reason.
func (s *steered) stop() error {
	if err := unix.PtraceInterrupt(s.tid); err != nil {
		return err
	}
	ws, err := s.wait()
	if err != nil || int(ws)>>16 == eventStop {
		return err
	}
	s.signal = ws.StopSignal()
	return s.request(ptraceGetSiginfo, 0, unsafe.Pointer(&s.info))
}

func (s *steered) wait() (ws unix.WaitStatus, err error) {
	for {
		_, err := unix.Wait4(s.tid, &ws, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == nil && !ws.Stopped():
			err = unix.ESRCH // it has ended
		}
		return ws, err
	}
}

// lost is for a thread that was killed: whose tracer must see its end before
// its parent does.
func (s *steered) lost(err error) error {
	if err == unix.ESRCH {
		for {
			_, err := unix.Wait4(s.tid, nil, unix.WALL, nil)
			if err != unix.EINTR && err != nil {
				return errStrayed
			}
		}
	}
	return errors.Join(err, s.detach(0))
}

func (s *steered) detach(signal unix.Signal) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(s.tid), 0, uintptr(signal), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func (s *steered) request(request int, addr uintptr, data unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(s.tid), addr, uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
