package socket

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadMsg reads a packet and the control message that comes with it (unix(7)).
func (c *Conn) ReadMsg(p, oob []byte) (n, oobn int, err error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	v := unix.Iovec{Base: &p[0], Len: uint64(len(p))}
	h := &unix.Msghdr{Iov: &v, Iovlen: 1, Control: &oob[0], Controllen: uint64(len(oob))}
	n, err = c.in.do(c.raw.Read, unix.SYS_RECVMSG, unsafe.Pointer(h), unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, 0, err
	}
	return n, int(h.Controllen), nil
}
