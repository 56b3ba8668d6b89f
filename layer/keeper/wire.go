package keeper

import (
	"errors"
	"strconv"
	"syscall"
	"unsafe"
)

// A Verb and a number are a message. Launcher and keeper are one build: what
// they say to each other needs no version.
type Verb uint32

const (
	// from the keeper
	DidInstall Verb = iota + 1 // errno; the listener comes with it
	DidStart                   // errno
	DidStop                    // the debuggee stopped, by this signal
	DidExit                    // wait status
	DidEnd                     // nothing below the keeper is left, and it ends
	// from the launcher
	DoInstall // the program of the orders that come with it
	DoStart   // somebody answers trapped calls now
	DoSignal  // unless the keeper has had it too, and with it the debuggee
)

type message struct {
	verb Verb
	n    uint32
}

const messageSize = 8

func (m *message) bytes() []byte { return (*[messageSize]byte)(unsafe.Pointer(m))[:] }

// Send sends a message to the other side of fd.
func Send(fd int, v Verb, n uint32, rights ...int) error {
	m := message{v, n}
	var oob []byte
	if len(rights) > 0 {
		oob = syscall.UnixRights(rights...)
	}
	for {
		if err := syscall.Sendmsg(fd, m.bytes(), oob, nil, syscall.MSG_NOSIGNAL); err != syscall.EINTR {
			return err
		}
	}
}

var errClosed = errors.New("the other side is gone")

// Receive waits for a message; rights is -1 or a descriptor that came with it.
func Receive(fd int) (v Verb, n uint32, rights int, err error) {
	var m message
	oob := make([]byte, syscall.CmsgSpace(4))
	for {
		size, oobn, _, _, err := syscall.Recvmsg(fd, m.bytes(), oob, syscall.MSG_CMSG_CLOEXEC)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, 0, -1, err
		case size < messageSize:
			return 0, 0, -1, errClosed
		}
		rights = -1
		if c, err := syscall.ParseSocketControlMessage(oob[:oobn]); err == nil && len(c) > 0 {
			if fds, err := syscall.ParseUnixRights(&c[0]); err == nil && len(fds) > 0 {
				rights = fds[0]
			}
		}
		return m.verb, m.n, rights, nil
	}
}

// Orders are what the keeper is to start. They go by a memfd: arguments and
// environment may be larger than any message.
type Orders struct {
	Path, Dir string
	Argv, Env []string
	// AtOnce: what it leaves behind when a signal ends it has no time to end: a
	// debugger that is interrupted leaves a debuggee that would now run.
	AtOnce  bool
	Program []Instruction
}

const instructionSize = 8

// Encode: path, dir, at once, len(argv), argv, len(env), env, each ended by NUL; the program.
func (o *Orders) Encode() []byte {
	var b []byte
	text := func(s string) { b = append(append(b, s...), 0) }
	text(o.Path)
	text(o.Dir)
	text(strconv.FormatBool(o.AtOnce))
	for _, list := range [][]string{o.Argv, o.Env} {
		text(strconv.Itoa(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	for i := range o.Program {
		b = append(b, (*[instructionSize]byte)(unsafe.Pointer(&o.Program[i]))[:]...)
	}
	return b
}

var errOrders = errors.New("malformed orders")

func (o *Orders) decode(b []byte) error {
	bad := false
	text := func() string {
		for i, c := range b {
			if c == 0 {
				s := string(b[:i])
				b = b[i+1:]
				return s
			}
		}
		bad = true
		return ""
	}
	o.Path, o.Dir, o.AtOnce = text(), text(), text() == "true"
	for _, list := range []*[]string{&o.Argv, &o.Env} {
		n, err := strconv.Atoi(text())
		if err != nil || n < 0 || n > len(b) {
			return errOrders
		}
		for range n {
			*list = append(*list, text())
		}
	}
	if bad || len(b)%instructionSize != 0 {
		return errOrders
	}
	for ; len(b) > 0; b = b[instructionSize:] {
		var in Instruction
		copy((*[instructionSize]byte)(unsafe.Pointer(&in))[:], b)
		o.Program = append(o.Program, in)
	}
	return nil
}
