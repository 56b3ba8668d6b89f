package layer

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// A message is a struct msghdr of the debuggee, or the head of a struct mmsghdr.
type message struct {
	at            uint64 // where it is
	name          uint64
	nameSize      uint32
	data          uint64 // struct iovec
	buffers       uint64 // how many
	control       uint64
	controlLength uint64
}

// Where they have what, and limits of the kernel's.
const (
	messageSize     = 56
	atNameSize      = 8
	atControlLength = 40
	atFlags         = 48
	manyMessageSize = 64
	atLength        = 56

	maxBuffers  = 1024 // UIO_MAXIOV, of messages too
	maxControl  = 4096 // larger ones are no datagram's
	bufferBytes = 16
)

func (m *message) decode(at uint64, b []byte) {
	le := binary.LittleEndian
	*m = message{at, le.Uint64(b), le.Uint32(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[40:])}
}

// readMessage reads the message at addr. False: the kernel will say what is
// wrong with it, unless c.doubt is set.
func (c *call) readMessage(addr uint64) (m message, ok bool) {
	var b [messageSize]byte
	if err := seccomp.Read(c.TID, addr, b[:]); err != nil {
		c.blame(err, memoryErrors)
		return m, false
	}
	m.decode(addr, b[:])
	return m, true
}

// A buffer is memory of the debuggee.
type buffer struct{ addr, size uint64 }

func (c *call) readBuffers(m *message) ([]buffer, unix.Errno) {
	if m.buffers > maxBuffers {
		return nil, unix.EMSGSIZE
	}
	b := make([]byte, m.buffers*bufferBytes)
	if err := seccomp.Read(c.TID, m.data, b); err != nil {
		return nil, asErrno(err)
	}
	list := make([]buffer, m.buffers)
	for i := range list {
		list[i] = buffer{binary.LittleEndian.Uint64(b[i*bufferBytes:]), binary.LittleEndian.Uint64(b[i*bufferBytes+8:])}
	}
	return list, 0
}

// total is their size, or maxDatagram+1 if that is less.
func total(list []buffer) (n uint64) {
	for _, b := range list {
		if n += b.size; n > maxDatagram || b.size > maxDatagram {
			return maxDatagram + 1
		}
	}
	return n
}

// gather reads what is to be sent.
func (c *call) gather(list []buffer) ([]byte, unix.Errno) {
	n := total(list)
	if n > maxDatagram {
		return nil, unix.EMSGSIZE
	}
	all := make([]byte, n)
	rest := all
	for _, b := range list {
		if err := seccomp.Read(c.TID, b.addr, rest[:b.size]); err != nil {
			return nil, asErrno(err)
		}
		rest = rest[b.size:]
	}
	return all, 0
}

// scatter makes the writes that put b into the buffers.
func scatter(list []buffer, b []byte) (writes []memory) {
	for _, into := range list {
		n := min(into.size, uint64(len(b)))
		writes = append(writes, memory{into.addr, b[:n]})
		b = b[n:]
	}
	return writes
}

// readControl reads what of the control messages is about the datagram itself
// (UDP_SEGMENT); what is about addresses is of the target's, not of loopback's.
func (c *call) readControl(m *message) ([]byte, unix.Errno) {
	if m.control == 0 || m.controlLength == 0 {
		return nil, 0
	}
	if m.controlLength > maxControl {
		return nil, unix.ENOBUFS
	}
	b := make([]byte, m.controlLength)
	if err := seccomp.Read(c.TID, m.control, b); err != nil {
		return nil, asErrno(err)
	}
	var kept []byte
	for len(b) >= unix.SizeofCmsghdr {
		size, level := binary.LittleEndian.Uint64(b), int32(binary.LittleEndian.Uint32(b[8:]))
		if size < unix.SizeofCmsghdr || size > uint64(len(b)) {
			return nil, unix.EINVAL
		}
		next := min(uint64(len(b)), (size+7)&^7)
		if level == unix.SOL_UDP {
			kept = append(kept, b[:next]...)
		}
		b = b[next:]
	}
	return kept, 0
}

func quickSendmsg(c *call) bool {
	m, ok := c.readMessage(c.Args[1])
	return !ok || m.name == 0 || !c.sendsRemote(m.name, uint64(m.nameSize), c.Args[2])
}

func slowSendmsg(c *call) answer {
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	m, ok := c.readMessage(c.Args[1])
	if !ok {
		return fail(unix.EFAULT)
	}
	return c.sendMessage(d, &m, c.Args[2])
}

func (c *call) sendMessage(d *duplicate, m *message, flags uint64) answer {
	data, errno := c.readBuffers(m)
	if errno != 0 {
		return fail(errno)
	}
	control, errno := c.readControl(m)
	if errno != 0 {
		return fail(errno)
	}
	return c.send(d, data, control, flags)
}

// quickMany is how many messages of sendmmsg the receiver looks at: a resolver
// has two, and no address.
const quickMany = 4

func quickSendmmsg(c *call) bool {
	return c.Args[2] <= quickMany && !c.anyRemote()
}

// anyRemote tells whether sendmmsg has a message for the target's network.
func (c *call) anyRemote() bool {
	b := make([]byte, min(c.Args[2], maxBuffers)*manyMessageSize)
	if err := seccomp.Read(c.TID, c.Args[1], b); err != nil {
		c.blame(err, memoryErrors)
		return false
	}
	for ; len(b) > 0; b = b[manyMessageSize:] {
		var m message
		m.decode(0, b)
		if m.name != 0 && c.sendsRemote(m.name, uint64(m.nameSize), c.Args[3]) {
			return true
		}
	}
	return false
}

// slowSendmmsg sends messages one after the other; those to addresses of this
// machine as well, so that their order stays.
func slowSendmmsg(c *call) answer {
	if !c.anyRemote() {
		if c.doubt != nil {
			return fail(unix.EIO)
		}
		return carryOn
	}
	d, ans, ok := c.duplicate(int32(c.Args[0]))
	if !ok {
		return ans
	}
	defer d.close()
	if !d.udp() {
		return fail(unix.ENETUNREACH)
	}
	sent := answer{again: true}
	for i := range min(c.Args[2], maxBuffers) {
		ans := c.sendOneOf(d, c.Args[1]+i*manyMessageSize)
		if ans.carryOn || ans.abandoned || ans.errno != 0 {
			if sent.val == 0 {
				return ans
			}
			break
		}
		length := binary.LittleEndian.AppendUint32(nil, uint32(ans.val))
		sent.writes = append(sent.writes, memory{c.Args[1] + i*manyMessageSize + atLength, length})
		sent.val++
	}
	return sent
}

func (c *call) sendOneOf(d *duplicate, at uint64) answer {
	m, ok := c.readMessage(at)
	if !ok {
		return fail(unix.EFAULT)
	}
	c.addr = sockaddr{}
	if m.name != 0 && c.sendsRemote(m.name, uint64(m.nameSize), c.Args[3]) {
		return c.sendMessage(d, &m, c.Args[3])
	}
	data, errno := c.readBuffers(&m)
	if errno != 0 {
		return fail(errno)
	}
	b, errno := c.gather(data)
	if errno != 0 {
		return fail(errno)
	}
	var to unix.Sockaddr // none: to where the socket is connected
	switch {
	case m.name == 0:
	case c.doubt != nil:
		return fail(unix.EIO)
	case !c.addr.addr.IsValid():
		return fail(unix.EINVAL)
	default:
		to = kernelAddr(c.addr.addr, d.domain)
	}
	return d.send(b, nil, to, c.Args[3])
}

func slowRecvmsg(c *call) answer {
	m, ok := c.readMessage(c.Args[1])
	if !ok {
		return fail(unix.EFAULT)
	}
	return c.receiveMessage(&m, c.Args[2])
}

// slowRecvmmsg receives one message, which is as many as there may be.
func slowRecvmmsg(c *call) answer {
	if c.Args[2] == 0 {
		return carryOn
	}
	m, ok := c.readMessage(c.Args[1])
	if !ok {
		return fail(unix.EFAULT)
	}
	const waitForOne = 0x10000 // MSG_WAITFORONE, which is recvmmsg's own
	ans := c.receiveMessage(&m, c.Args[3]&^waitForOne)
	if ans.errno == 0 && !ans.carryOn && !ans.abandoned {
		length := binary.LittleEndian.AppendUint32(nil, uint32(ans.val))
		ans.writes = append(ans.writes, memory{m.at + atLength, length})
		ans.val = 1
	}
	return ans
}

func (c *call) receiveMessage(m *message, flags uint64) answer {
	if m.name == 0 || flags&unix.MSG_ERRQUEUE != 0 {
		return carryOn // nothing that could be told wrongly
	}
	data, errno := c.readBuffers(m)
	if errno != 0 {
		return fail(errno)
	}
	room := 0
	if m.control != 0 {
		room = int(min(m.controlLength, maxControl))
	}
	return c.receive(data, room, flags, func(r *received) ([]memory, unix.Errno) {
		writes, errno := c.writeSockaddr(r.from, r.domain, m.name, m.at+atNameSize)
		le := binary.LittleEndian
		return append(writes,
			memory{m.control, r.control},
			memory{m.at + atControlLength, le.AppendUint64(nil, uint64(len(r.control)))},
			memory{m.at + atFlags, le.AppendUint32(nil, uint32(r.flags))},
		), errno
	})
}
