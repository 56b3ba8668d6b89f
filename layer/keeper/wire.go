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

// write is Send by write(2). Where the other side is gone, the SIGPIPE is Go's to ignore.
func write(fd int, v Verb, n uint32) error {
	m := message{v, n}
	for {
		if _, err := syscall.Write(fd, m.bytes()); err != syscall.EINTR {
			return err
		}
	}
}

// readVerb is Receive by read(2), for a verb alone; 0: the other side is gone.
func readVerb(fd int) Verb {
	var m message
	for {
		n, err := syscall.Read(fd, m.bytes())
		if err == syscall.EINTR {
			continue
		}
		if n < messageSize {
			return 0
		}
		return m.verb
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

// Encode: what is needed for the program, which is dir, its length, it; then path,
// at once, len(argv), argv, len(env), env. Words and numbers are ended by NUL.
func (o *Orders) Encode() []byte {
	var b []byte
	text := func(s string) { b = append(append(b, s...), 0) }
	text(o.Dir)
	text(strconv.Itoa(len(o.Program)))
	for i := range o.Program {
		b = append(b, (*[instructionSize]byte)(unsafe.Pointer(&o.Program[i]))[:]...)
	}
	text(o.Path)
	text(strconv.FormatBool(o.AtOnce))
	for _, list := range [][]string{o.Argv, o.Env} {
		text(strconv.Itoa(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	return b
}

// read reads the orders in a file, and closes it. The rest is left to decode.
func (o *Orders) read(fd int) (rest words, err error) {
	defer syscall.Close(fd)
	var info syscall.Stat_t
	if err := syscall.Fstat(fd, &info); err != nil {
		return nil, err
	}
	b := make([]byte, info.Size)
	for n := 0; n < len(b); {
		more, err := syscall.Pread(fd, b[n:], int64(n))
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if more == 0 {
			return nil, errOrders
		}
		n += more
	}
	return o.decodeProgram(b)
}

var errOrders = errors.New("malformed orders")

// words are orders that are not yet decoded.
type words []byte

// next takes the first word.
func (w *words) next() (word string, err error) {
	for i, c := range *w {
		if c == 0 {
			word, *w = string((*w)[:i]), (*w)[i+1:]
			return word, nil
		}
	}
	return "", errOrders
}

// number takes a count of what follows, of so many bytes each.
func (w *words) number(size int) (int, error) {
	word, err := w.next()
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 || n > len(*w)/size {
		return 0, errOrders
	}
	return n, nil
}

func (o *Orders) decodeProgram(w words) (rest words, err error) {
	if o.Dir, err = w.next(); err != nil {
		return nil, err
	}
	n, err := w.number(instructionSize)
	if err != nil {
		return nil, err
	}
	o.Program = make([]Instruction, n)
	for i := range o.Program {
		copy((*[instructionSize]byte)(unsafe.Pointer(&o.Program[i]))[:], w)
		w = w[instructionSize:]
	}
	return w, nil
}

func (o *Orders) decode(w words) (err error) {
	if o.Path, err = w.next(); err != nil {
		return err
	}
	atOnce, err := w.next()
	if err != nil {
		return err
	}
	o.AtOnce = atOnce == "true"
	for _, list := range []*[]string{&o.Argv, &o.Env} {
		n, err := w.number(1)
		if err != nil {
			return err
		}
		*list = make([]string, n)
		for i := range *list {
			if (*list)[i], err = w.next(); err != nil {
				return err
			}
		}
	}
	if len(w) > 0 {
		return errOrders
	}
	return nil
}
