package launch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Launcher and keeper are one build: what they say to each other needs no
// version. A message is a verb and a number.
type verb uint32

const (
	// from the keeper
	didInstall verb = iota + 1 // errno; the listener comes with it
	didStart                   // errno
	didStop                    // the debuggee stopped, by this signal
	didExit                    // wait status
	// from the launcher
	doInstall // the program of the orders that come with it
	doStart   // somebody answers trapped calls now
	doSignal  // unless the keeper has had it too, and with it the debuggee
)

const messageSize = 8

func send(fd int, v verb, n uint32, rights ...int) error {
	b := binary.LittleEndian.AppendUint32(nil, uint32(v))
	b = binary.LittleEndian.AppendUint32(b, n)
	var oob []byte
	if len(rights) > 0 {
		oob = unix.UnixRights(rights...)
	}
	for {
		if err := unix.Sendmsg(fd, b, oob, nil, unix.MSG_NOSIGNAL); err != unix.EINTR {
			return err
		}
	}
}

var errClosed = errors.New("the other side is gone")

// receive waits for a message; rights is -1 or a descriptor that came with it.
func receive(fd int) (v verb, n uint32, rights int, err error) {
	b, oob := make([]byte, messageSize), make([]byte, unix.CmsgSpace(4))
	for {
		size, oobn, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, 0, -1, err
		case size < messageSize:
			return 0, 0, -1, errClosed
		}
		rights = -1
		if m, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(m) > 0 {
			if fds, err := unix.ParseUnixRights(&m[0]); err == nil && len(fds) > 0 {
				rights = fds[0]
			}
		}
		return verb(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint32(b[4:]), rights, nil
	}
}

// orders is what the keeper is to start. It goes by a memfd: arguments and
// environment may be larger than any message.
type orders struct {
	path, dir string
	argv, env []string
	program   []bpf.RawInstruction
}

const instructionSize = 8

// encode: path, dir, len(argv), argv, len(env), env, each ended by NUL; the program.
func (o *orders) encode() []byte {
	var b []byte
	text := func(s string) { b = append(append(b, s...), 0) }
	text(o.path)
	text(o.dir)
	for _, list := range [][]string{o.argv, o.env} {
		text(strconv.Itoa(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	for _, in := range o.program {
		b = binary.LittleEndian.AppendUint16(b, in.Op)
		b = append(b, in.Jt, in.Jf)
		b = binary.LittleEndian.AppendUint32(b, in.K)
	}
	return b
}

var errOrders = errors.New("malformed orders")

func (o *orders) decode(b []byte) error {
	bad := false
	text := func() string {
		s, rest, ok := bytes.Cut(b, []byte{0})
		b, bad = rest, bad || !ok
		return string(s)
	}
	o.path, o.dir = text(), text()
	for _, list := range []*[]string{&o.argv, &o.env} {
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
		o.program = append(o.program, bpf.RawInstruction{
			Op: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.LittleEndian.Uint32(b[4:]),
		})
	}
	return nil
}

// memfd writes the orders into a file without a name.
func (o *orders) memfd() (*os.File, error) {
	fd, err := unix.MemfdCreate("mirrord-keeper", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("writing the keeper's orders: %w", err)
	}
	f := os.NewFile(uintptr(fd), "orders")
	if _, err := f.Write(o.encode()); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the keeper's orders: %w", err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the keeper's orders: %w", err)
	}
	return f, nil
}
